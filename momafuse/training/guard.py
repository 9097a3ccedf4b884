"""Which steps update the weights. A step whose loss or gradient is not finite updates nothing, on all ranks together.

    loss or gradient norm not finite            skipped
    norm > trainer.skip_spikes * median         skipped, where the key is set: the median of the last 100 accepted norms
    more than trainer.max_skipped in a row      the run stops, one line with the remedy
    a parameter not finite                      the run stops at once; looked at after the first step and before each save

Loss and norm are those of the whole step, equal on every rank, and arrive on the host together in one transfer, so ranks
agree without a word and a step waits for the device once. A skipped step is a step: data, learning rate and step number go on.
State: skipped (total), in_row, norms (accepted ones, where spikes are looked for).
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from momafuse.checkpoint import store
from momafuse.config.schema import RunnableConfig
from momafuse.errors import UserError
from momafuse.world import World

WINDOW, LEAST = 100, 10  # accepted norms that a spike is measured by, and how many there must be


class Guard:
    """Counts what is skipped; `saved` is what `state()` returned before a restart, if anything.

    `written` returns when no checkpoint is being written any more: the last one is named when a run has to stop.
    """

    def __init__(
        self, config: RunnableConfig, world: World, checkpoints: Path, saved: dict[str, Any] | None, written: Callable[[], None]
    ) -> None:
        saved = saved or {"skipped": 0, "in_row": 0, "norms": []}
        self._config, self._world, self._checkpoints, self._written = config, world, checkpoints, written
        self.skipped, self.in_row = int(saved["skipped"]), int(saved["in_row"])
        self._norms: deque[float] = deque(saved["norms"], WINDOW)

    def state(self) -> dict[str, Any]:
        """As JSON; later steps do not change it."""
        return {"skipped": self.skipped, "in_row": self.in_row, "norms": list(self._norms)}

    def objection(self, step: int, loss: float, norm: float) -> str | None:
        """Why the update of `step` must be skipped, None where it is to be made. Raises UserError after too many in a row."""
        why = self._why(loss, norm)
        if why is None:
            self.in_row = 0
            if self._config.trainer.skip_spikes is not None:
                self._norms.append(norm)
            return None
        self.skipped, self.in_row = self.skipped + 1, self.in_row + 1
        limit = self._config.trainer.max_skipped
        if self.in_row > limit:
            raise self._stop(f"step {step}: {why}", f" ({self.in_row} in a row, trainer.max_skipped={limit})")
        return f"step {step}: no update, {why} ({self.in_row} in a row, trainer.max_skipped={limit})"

    def check_parameters(self, step: int, model: nn.Module) -> None:
        """Raises UserError if a parameter is not finite on any rank; the device is waited for once."""
        paths, parameters = zip(*model.named_parameters(), strict=True)
        bad = torch.stack([(~local(p.detach()).isfinite()).any() for p in parameters]).double()
        for path, found in zip(paths, self._world.sum(bad).tolist(), strict=True):
            if found:
                raise self._stop(f"step {step}: parameter {path} is not finite")

    def _why(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        factor = self._config.trainer.skip_spikes
        if factor is None or len(self._norms) < LEAST or norm <= factor * median(self._norms):
            return None
        usual = f"the median {median(self._norms):.3g} of the last {len(self._norms)}"
        return f"the gradient norm {norm:.3g} is above trainer.skip_spikes={factor:g} times {usual}"

    def _stop(self, what: str, count: str = "") -> UserError:
        with contextlib.suppress(UserError):  # a save that failed is not the last checkpoint
            self._written()
        last = self._world.on_main(lambda: store.latest(self._checkpoints))
        go_on = f"run.name=... resume={last}, the last checkpoint" if last else "run.name=...; there is no checkpoint yet"
        return UserError(f"{what}{count}; lower optim.lr={self._config.optim.lr:g} and start again with {go_on}")


def gradient_norm(parameters: Iterable[nn.Parameter], device: torch.device) -> Tensor:
    """The norm of the gradients of all ranks together, () on `device`; 0 where there is none."""
    grads = [p.grad for p in parameters if p.grad is not None]
    sharded = [g for g in grads if isinstance(g, DTensor)]
    whole = [g for g in grads if not isinstance(g, DTensor)]
    found = [get_total_norm(part) for part in (sharded, whole) if part]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in found]
    return norms[0] if len(norms) == 1 else torch.stack([torch.zeros((), device=device), *norms]).norm()


def local(x: Tensor) -> Tensor:
    """This rank's shard of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x
