"""Saves in the background: the run waits for a copy of its tensors in host memory and goes on; a thread does the rest.

    copy     the state of model and optimizer into host memory of the saver's own, pinned where they live on a GPU;
             it is taken once and written over by every save
    write    each rank its shards by DCP, into `.step_STEP.partial`, and hashes them
    commit   the main process: state.json, config.yaml, the marker; rename; `latest`; older checkpoints go

The thread talks to the other ranks over a group of its own (World.aside), so that its messages never meet those of the steps.
A save that begins while one is under way waits for it: there is one copy, and memory does not grow. What a save raises, the
next `save` or `wait` raises, on every rank. Torch's own `async_save` is not used: it deep-copies what is around the tensors,
and has been seen to leak.

Does not decide when to save (training/steps.py), and reads nothing (store.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.serialization import get_crc32_options, set_crc32_options
from torch.utils._pytree import tree_flatten, tree_unflatten

from momafuse.checkpoint.store import FORMAT, LATEST, MARKER, complete, sha256, step_name, unwritten
from momafuse.errors import UserError
from momafuse.files import write_aside
from momafuse.world import World

LENIENCE = 10  # niceness of the thread that writes: a tenth of a core where all are busy


@dataclass(frozen=True)
class Keep:
    """Which complete checkpoints stay: the newest `last`, and those at multiples of `every` steps."""

    last: int
    every: int | None = None

    def superseded(self, checkpoints: list[Path]) -> list[Path]:
        """Those that go, of all complete ones, oldest first."""
        return [c for c in checkpoints[: -self.last] if self.every is None or int(c.name.removeprefix("step_")) % self.every]


class Saver:
    """Writes the checkpoints of one run into `root`; every rank makes one, and calls it for the same steps.

    A context: at its end the last save is waited for. An error that is already on its way stays the one that is raised.
    """

    def __init__(self, root: Path, keep: Keep, world: World) -> None:
        self._root, self._keep, self._world = root, keep, world.aside()
        self._copies: list[Any] = []
        self._thread = ThreadPoolExecutor(1, "momafuse-saver", initializer=_stand_back)
        self._pending: Future[None] | None = None
        self.last: int | None = None  # the step of the newest save that was begun
        self.waited = 0.0  # seconds that the run was held up in all

    def save(self, step: int, model: nn.Module, optimizers: Sequence[Optimizer], state: dict[str, Any], config: str) -> None:
        """Begin `root/step_STEP`. `state` must be JSON.

        Raises UserError if the save before this one failed: the disk did not take it; older checkpoints are untouched.
        """
        self.wait()
        self.last, begin = step, time.perf_counter()
        model_state, optimizer_state = get_state_dict(model, optimizers)
        tensors, copied = self._copy({"model": model_state, "optimizer": optimizer_state})
        words = json.dumps(state, indent=1)
        self._pending = self._thread.submit(self._write, step, tensors, copied, words, config)
        self.waited += time.perf_counter() - begin

    def wait(self) -> None:
        """Return when nothing is being written. Raises UserError as `save` does."""
        pending, self._pending = self._pending, None
        begin = time.perf_counter()
        if pending is not None:
            pending.result()
        self.waited += time.perf_counter() - begin

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        with contextlib.suppress(Exception) if error is not None else contextlib.nullcontext():
            self.wait()
        self._thread.shutdown()

    @torch.no_grad()
    def _copy(self, tensors: dict[str, Any]) -> tuple[dict[str, Any], torch.cuda.Event | None]:
        """The same in host memory, and what happens when the copies are whole: those from a GPU are only queued."""
        leaves, tree = tree_flatten(tensors)
        if not self._copies:
            self._copies = [_room(x) if isinstance(x, Tensor) else None for x in leaves]
        for x, room in zip(leaves, self._copies, strict=True):
            if room is not None:
                _local(room).copy_(_local(x), non_blocking=True)
        copied = None
        if self._world.device.type == "cuda":
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        values = [x if room is None else room for x, room in zip(leaves, self._copies, strict=True)]
        copy: dict[str, Any] = tree_unflatten(values, tree)
        return copy, copied

    def _write(self, step: int, tensors: dict[str, Any], copied: torch.cuda.Event | None, state: str, config: str) -> None:
        world, root = self._world, self._root
        final, partial = root / step_name(step), root / f".{step_name(step)}.partial"
        if copied is not None:
            copied.synchronize()
        try:
            world.on_main(lambda: make_empty(partial))
            with without_crc():
                dcp_save(tensors, checkpoint_id=partial, no_dist=world.mesh is None, process_group=world.waiting)
            shards = world.on_all(lambda: described(partial, f"__{world.rank}_*.distcp"))
            world.on_main(lambda: commit(partial, final, [s for rank in shards for s in rank], state, config, self._keep))
        except (OSError, CheckpointException) as error:
            said = unwritten(final, error)  # while what there is of it still takes room
            if world.main:
                shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"checkpoint {said}; older checkpoints are untouched") from error


def _stand_back() -> None:
    """The thread takes the time that the steps leave: where they use every core, sharing evenly would double their time."""
    with contextlib.suppress(AttributeError, OSError):  # Linux counts threads as processes; others may refuse
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LENIENCE)


@contextlib.contextmanager
def without_crc() -> Iterator[None]:
    """torch sums up every byte for a zip file that nobody unzips; the marker has a hash of the whole."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


def _room(x: Tensor) -> Tensor:
    """Host memory for a copy of `x`; of a sharded tensor, for this rank's part."""
    room = x.detach().to("cpu", copy=True)
    if x.device.type == "cuda":  # pinned, or the copies would wait for one another
        if isinstance(room, DTensor):
            room._local_tensor = room._local_tensor.pin_memory()
        else:
            room = room.pin_memory()
    return room


def _local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def described(folder: Path, pattern: str) -> list[tuple[str, int, str]]:
    """Name, size and SHA-256 of the files whose names match."""
    return [(f.name, f.stat().st_size, sha256(f)) for f in sorted(folder.glob(pattern))]


def make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def commit(partial: Path, final: Path, shards: list[tuple[str, int, str]], state: str, config: str, keep: Keep) -> None:
    """Complete a folder that holds its tensors, and make it the newest checkpoint."""
    write_aside(partial / "state.json", state)
    write_aside(partial / "config.yaml", config)
    files = [described(partial, name) for name in (".metadata", "state.json", "config.yaml")]
    marked = {name: [size, digest] for name, size, digest in sorted([*shards, *(f for found in files for f in found)])}
    write_aside(partial / MARKER, json.dumps({"format": FORMAT, "files": marked}, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    write_aside(final.parent / LATEST, final.name)
    for old in keep.superseded(complete(final.parent)):
        shutil.rmtree(old)


def tidy(root: Path) -> list[str]:
    """Clear away what a killed process left: saves that were not finished, and a `latest` that names another checkpoint than
    the newest complete one. Only the process that holds the run folder may. Returns a line for each thing that it found.
    """
    found = []
    for partial in sorted(root.glob(".step_*.partial")):
        shutil.rmtree(partial)
        found.append(f"{partial.name.removesuffix('.partial').removeprefix('.')} was not saved to its end and is dropped")
    checkpoints = complete(root)
    pointer = root / LATEST
    named = pointer.read_text().strip() if pointer.is_file() else "nothing"
    if checkpoints and named != (newest := checkpoints[-1].name):
        write_aside(pointer, newest)
        found.append(f"{pointer} named {named}; it now names {newest}, the newest complete checkpoint")
    return found
