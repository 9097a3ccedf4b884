"""A stand-in for CUDA graphs on a CPU: the ops that an action ran, run again on the same tensors and the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Recorded(TorchDispatchMode):
    """Like a graph it keeps what the host gave to an op (numbers, shapes, which tensors), and every result in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.ops.append((func, args, kwargs or {}, _tensors(out)))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self.ops:
            given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
            for old, new in zip(results, _tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() not in given:  # else a view of what was given, or written in place
                    old.copy_(new)


def record(action: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """What runs the launches again, and the results of the first time."""
    recorded = Recorded()
    with recorded:
        out = action()
    return recorded.replay, out


def _tensors(x: Any) -> list[Tensor]:
    return [t for t in tree_leaves(x) if isinstance(t, Tensor)]


class Recording:
    """Takes the place of `CudaCapture`."""

    def __init__(self, device: torch.device) -> None:
        self.warmed = self.captured = 0

    def warm(self, action: Callable[[], T]) -> T:
        self.warmed += 1
        return action()

    def capture(self, action: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """What was run to be recorded counts as the first replay: a graph's capture runs nothing."""
        self.captured += 1
        replay, results = record(action)
        calls = iter([lambda: None])
        return lambda: next(calls, replay)(), results
