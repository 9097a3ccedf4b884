"""The checkpoint store, and how it is read: torch's distributed checkpoint (DCP) for tensors, JSON for everything else.

    checkpoints/step_00001000/   *.distcp, .metadata      tensors of the model and the optimizer, by parameter path
                                 state.json               step, tokens, schedule, layout: what the loop needs, as plain JSON
                                 config.yaml              the resolved config
                                 complete.json            the marker: format version, size and SHA-256 of every file
    checkpoints/latest           the name of the newest complete one

A checkpoint is written into a folder with another name and renamed when its marker is in it, then `latest` is replaced
(saving.py): a process killed at any moment leaves the older checkpoint as it was. DCP unpickles its own metadata, so only
run folders that you trust may be resumed; the hashes find damage, not malice.

Every rank writes its shards, the main process everything else. A checkpoint is read at any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.optim import Optimizer

from momafuse.errors import UserError
from momafuse.world import World

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is what we want then

FORMAT = 1
MARKER = "complete.json"
LATEST = "latest"
LITTLE = 2**30  # bytes: with less on a disk, that is why nothing more was written


def step_name(step: int) -> str:
    return f"step_{step:08d}"


def complete(root: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(d for d in root.glob("step_*") if (d / MARKER).is_file()) if root.is_dir() else []


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint, None if there is none. `latest` is a hint for people; the markers decide."""
    found = complete(root)
    return found[-1] if found else None


def find(path: Path, key: str = "resume") -> Path:
    """A checkpoint from the path of a checkpoint, of a `checkpoints` folder or of a run. Raises UserError if there is none.

    `key` is what names the path in the config.
    """
    for root in (path, path / "checkpoints"):
        if (root / MARKER).is_file():
            return root
        if (newest := latest(root)) is not None:
            return newest
    raise UserError(f"{key}={path}: no complete checkpoint there; give a run folder or one of its checkpoints/step_* folders")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON state, after every file was compared with the marker. Raises UserError on any damage."""
    verify(checkpoint)
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return state


def verify(checkpoint: Path) -> None:
    """Compare size and SHA-256 of every file with the marker."""
    remedy = "; delete this folder to go on from an older checkpoint"
    try:
        marker = json.loads((checkpoint / MARKER).read_text())
        version, files = marker["format"], [(name, size, digest) for name, (size, digest) in marker["files"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"checkpoint {checkpoint}: its marker {MARKER} is unreadable ({error}){remedy}") from error
    if version != FORMAT:
        raise UserError(f"checkpoint {checkpoint}: format {version}, this version of momafuse reads {FORMAT}")
    for name, size, digest in files:
        file = checkpoint / name
        if not file.is_file():
            raise UserError(f"checkpoint {checkpoint}: {name} is missing{remedy}")
        if file.stat().st_size != size:
            found = file.stat().st_size
            raise UserError(f"checkpoint {checkpoint}: {name} is truncated, {found} of {size} bytes{remedy}")
        if sha256(file) != digest:
            raise UserError(f"checkpoint {checkpoint}: {name} is corrupt, its SHA-256 differs{remedy}")


def load(
    checkpoint: Path,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    world: World,
    without: Callable[[str], bool] | None = None,
) -> None:
    """Read weights, and the optimizers' state if any are given, into existing objects of the same structure, on every rank.

    Parameters whose path is `without` keep their values: the checkpoint need not have them.
    """
    model_state, optimizer_state = get_state_dict(model, optimizers)
    if without is not None:
        model_state = {path: value for path, value in model_state.items() if not without(path)}
    state = {"model": model_state} | ({"optimizer": optimizer_state} if optimizers else {})
    try:
        alone = world.mesh is None
        dcp_load(state, checkpoint_id=checkpoint, no_dist=alone, process_group=world.waiting)
    except (OSError, CheckpointException) as error:
        raise wrapped(error) or UserError(f"checkpoint {checkpoint}: cannot be read ({reason(error)})") from error
    options = StateDictOptions(strict=without is None)
    set_state_dict(model, optimizers, model_state_dict=model_state, optim_state_dict=optimizer_state, options=options)


def reason(error: BaseException) -> str:
    """One line: of DCP's report the first rank's cause."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (cause, _) = min(error.failures.items())
        return f"rank {rank}: {reason(cause)}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unwritten(path: Path, error: BaseException) -> str:
    """Why `path` could not be written. torch's writer says nothing of a full disk, so this does where little is left."""
    free = shutil.disk_usage(next(parent for parent in path.parents if parent.exists())).free
    return f"{path}: cannot be written ({reason(error)})" + (f"; its disk has {decimal(free)} left" if free < LITTLE else "")


def wrapped(error: BaseException) -> BaseException | None:
    """What DCP's report holds that is no failure of it: a Ctrl-C, or the UserError of a tensor that was made meanwhile."""
    causes = error.failures.values() if isinstance(error, CheckpointException) else ()
    return next((cause for cause, _ in causes if isinstance(cause, KeyboardInterrupt | UserError)), None)


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
