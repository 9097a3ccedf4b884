"""Forward and backward of a micro-batch as one launch: a CUDA graph, so that the host is never what a GPU waits for.

A micro-batch is the same launches whatever it holds (training/step.py), so they are captured once and done again on the
contents of the next: inputs are copied into the tensors that they were captured with, gradients are added to tensors that
stay. The first calls run eagerly, on the stream of the capture: kernels are compiled and chosen then. The number of documents
is the one shape that differs: it is filled up to a power of two by documents without rows, and each power has a graph; they
share memory.

Memory that a graph works in stays its own, so what runs beside it (an evaluation) finds none of it free; and the first
micro-batch of a step adds to zeros where eager would write. For models that are not sharded, without dropout, and products that
read no sizes on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.errors import UserError

WARM = 3  # eager calls before a capture, as many as torch's documentation asks for
T = TypeVar("T")
Results = tuple[Tensor, ...]
Compute = Callable[[Batch, Tensor], Results]  # of a batch and the numbers of its step, both on the device; adds gradients


class Capture(Protocol):
    def warm(self, action: Callable[[], T]) -> T:
        """Run an action as its launches will be captured."""

    def capture(self, action: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """What runs an action's launches again, and the tensors that it leaves its results in. Runs nothing yet."""


class CudaCapture:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def warm(self, action: Callable[[], T]) -> T:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = action()
        current.wait_stream(self._stream)
        return results

    def capture(self, action: Callable[[], T]) -> tuple[Callable[[], None], T]:
        graph = torch.cuda.CUDAGraph()
        # other threads go on: the one that loads data pins memory
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            results = action()
        self._pool = graph.pool()
        return graph.replay, results


@dataclass
class _Captured:
    batch: Batch
    numbers: Tensor
    calls: int = 0
    replay: Callable[[], None] | None = None
    results: Results = ()


class Replayed:
    """`compute` of any batch of one shape; `parameters` are those that learn."""

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter], capture: Capture) -> None:
        self._compute, self._capture = compute, capture
        self._parameters, self._gradients = parameters, list[Tensor]()
        self._captured: dict[int, _Captured] = {}

    def __call__(self, batch: Batch, numbers: Tensor) -> Results:
        """`batch` as the loader makes it, `numbers` on the device."""
        c = self._holding(batch, numbers)
        action = partial(self._compute, c.batch, c.numbers)
        if c.calls < WARM:
            c.calls += 1
            return self._capture.warm(action)
        self._keep_gradients()
        if c.replay is None:
            c.replay, c.results = self._capture.capture(action)
        c.replay()
        return tuple(result.clone() for result in c.results)  # the next call writes over them

    def _holding(self, batch: Batch, numbers: Tensor) -> _Captured:
        """The tensors of graphs for so many documents, with these contents."""
        found = batch.begins.shape[0]
        room = 1 + (1 << (found - 2).bit_length())
        if room not in self._captured:
            roomy = replace(batch, begins=batch.begins.new_empty(room)).to(numbers.device)
            copied = {f.name: getattr(roomy, f.name).clone() for f in fields(roomy) if f.name != "budget"}
            self._captured[room] = _Captured(replace(roomy, **copied), torch.empty_like(numbers))
        c = self._captured[room]
        for f in fields(batch):
            if f.name not in ("budget", "begins"):
                getattr(c.batch, f.name).copy_(getattr(batch, f.name), non_blocking=True)
        c.batch.begins[:found].copy_(batch.begins, non_blocking=True)
        c.batch.begins[found:].fill_(batch.tokens.numel())
        c.numbers.copy_(numbers)
        return c

    @torch.no_grad()
    def _keep_gradients(self) -> None:
        """Parameters have the tensors that graphs add to, with the gradients so far: the optimizer drops them each step."""
        if not self._gradients:
            self._gradients = [torch.zeros_like(p) for p in self._parameters]
        fresh = []
        for p, kept in zip(self._parameters, self._gradients, strict=True):
            if p.grad is None:
                fresh.append(kept)
            elif p.grad is not kept:
                kept.copy_(p.grad)
            p.grad = kept
        if fresh:
            torch._foreach_zero_(fresh)


def check_graphs(config: Config, device: torch.device, *, sharded: bool) -> None:
    """Raises UserError where `trainer.cuda_graphs=true` asks for what cannot be."""
    problems = {
        "needs a GPU": device.type != "cuda",
        "is for one process, not under torchrun": sharded,
        "would draw the same dropout in each step; write model.dropout=0": config.model.dropout > 0,
        "needs shapes that stay; write upcycling.capacity_steps=0": bool(config.upcycle and config.upcycling.capacity_steps),
        "is not for the stage of auxiliary routers": config.router.auxiliary,
        "needs products that read no sizes on the host; write trainer.backend=auto": config.trainer.backend == "reference",
    }
    for problem, found in problems.items():
        if found and config.trainer.cuda_graphs:
            raise UserError(f"trainer.cuda_graphs=true: {problem}")
