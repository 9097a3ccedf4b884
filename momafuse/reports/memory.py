"""Memory of a training step, by running the real model on fake tensors: they have shapes and dtypes, and no contents.

Every storage that an op makes is followed until it dies, forward and backward. What is alive at the end of the forward are the
activations: what autograd keeps (under activation checkpointing: inputs of blocks and what the policy keeps), gradients that
the loss makes in its forward, copies of weights in the dtype of the rows (working copies, and what modules cast themselves),
and the plans of the routers. The highest sum at any moment is the peak: with gradients, temporaries, and what a backward
computes again. What an allocator wastes is not seen.

Attention is counted as its fused kernels keep it: q, k, v, mask, output, log-sum-exp. RMSNorm is composed of small ops on a
CPU, which keep several fp32 copies of the rows; CUDA's fused kernel keeps its input and one number a row. The loss is made in
larger pieces there, its gradient written over the logits by one kernel (`on_gpu`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from momafuse.kernels import bmm, cross_entropy, linear
from momafuse.kernels.triton import experts as triton_experts
from momafuse.kernels.triton import linear as triton_linear
from momafuse.kernels.triton import rotary
from momafuse.models import norms
from momafuse.models.transformer import Transformer

PARTS = ("inputs", "embedding", "blocks", "weight_copies", "head_and_loss")
# Our own ops as Python functions, so that what they need while they run is seen; torch has no public way to these.
OPS = [op for room in (bmm, triton_experts) for op in (room._experts, room._experts_backward)]
OPS += [op for room in (linear, triton_linear) for op in (room._linear, room._linear_backward)]
OPS += [rotary._norm_rotate, rotary._norm_rotate_backward]
BODIES = {op._opoverload: op._init_fn for op in OPS}
ADAMW = 2  # moments, each as large as the parameter


@dataclass(frozen=True)
class Memory:
    """Bytes. `peak` is of the whole step, weights, gradients and optimizer included; None: not known before running."""

    weights: int
    gradients: int
    optimizer: int  # from the second step on
    activations: dict[str, int] | None  # PARTS, at the end of the forward
    peak: int | None


def measure(
    model: Transformer,
    forward: Callable[[Transformer], tuple[Tensor, Any]],
    working: Callable[[], AbstractContextManager[None]],
    *,
    accumulates: bool,
    on_gpu: bool,
) -> Memory:
    """`forward` makes a batch and returns the loss, and what else the loop holds on to during the backward. It is called under
    `working`, which may have the model hold copies of its parameters.

    Call it under FakeTensorMode, or with a real model. `accumulates`: gradients of micro-batches before are there.
    """
    learning = [p for p in model.parameters() if p.requires_grad]
    weights, gradients = size(list(model.parameters())), size(learning)
    optimizer = ADAMW * gradients
    try:
        activations, peak = _run(model, forward, working, learning if accumulates else [], on_gpu)
    except DataDependentOutputException:
        return Memory(weights, gradients, optimizer, None, None)
    return Memory(weights, gradients, optimizer, activations, peak + optimizer)


def size(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _run(
    model: Transformer,
    forward: Callable[[Transformer], tuple[Tensor, Any]],
    working: Callable[[], AbstractContextManager[None]],
    accumulate: Sequence[Tensor],
    on_gpu: bool,
) -> tuple[dict[str, int], int]:
    """Activations by part, and the peak without the optimizer's state."""
    live = LiveBytes()
    for p in accumulate:
        p.grad = torch.empty_like(p)
        live.follow(p.grad, "gradients")
    begins = {"embedding": model.embedding, "blocks": model.blocks[0], "head_and_loss": model.norm}
    hooks = [m.register_forward_pre_hook(live.enter(part)) for part, m in begins.items()]
    with kernels_of_a_gpu() if on_gpu else nullcontext():
        activations = live.of_step(model, partial(forward, model), working)
    for hook in hooks:
        hook.remove()
    return {part: activations.get(part, 0) for part in PARTS}, live.peak


@contextmanager
def kernels_of_a_gpu() -> Iterator[None]:
    """What is made another way there, on tensors that say that they are a CPU's."""
    pieces, kernel = (
        patch.object(cross_entropy, "CPU_ELEMENTS", cross_entropy.GPU_ELEMENTS),
        patch.object(cross_entropy, "triton_serves", lambda _: True),
    )
    with patch.object(norms, "rms_norm", fused_rms_norm), pieces, kernel:
        yield


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive, each under the part that made it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = "inputs"
        self.now = self.peak = 0
        self._alive: dict[int, tuple[weakref.ref[Any], str, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in BODIES:
            with self, torch.no_grad():
                out = BODIES[func](*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        copies = func is torch.ops.aten._to_copy.default and isinstance(args[0], nn.Parameter)
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self.follow(t, "weight_copies" if copies else self.part)
        return out

    def of_step(
        self,
        model: nn.Module,
        forward: Callable[[], tuple[Tensor, Any]],
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> dict[str, int]:
        """Follows a forward and its backward, `forward` and `working` as in `measure`. -> part -> bytes after the forward

        Who calls it sees to it that `part` changes on the way.
        """
        for t in (*model.parameters(), *model.buffers()):
            self.follow(t, "weights")
        with working(), self:
            for t in model.parameters():
                self.follow(t, "weight_copies")  # those that are no copies are followed already
            loss, held = forward()
            found = self.by_part()
            self.part = "backward"
            loss.backward()  # type: ignore[no-untyped-call]
        del held
        return found

    def follow(self, t: Tensor, part: str) -> None:
        storage = t.untyped_storage()
        key, n = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def died(_: object) -> None:
            del self._alive[key]
            self.now -= n

        self._alive[key] = weakref.ref(storage, died), part, n
        self.now += n
        self.peak = max(self.peak, self.now)

    def begin(self, part: str) -> None:
        self.part = part

    def enter(self, part: str) -> Callable[..., None]:
        """A hook for the module that begins a part."""
        return lambda *_: self.begin(part)

    def by_part(self) -> dict[str, int]:
        parts: dict[str, int] = {}
        for _, part, n in self._alive.values():
            parts[part] = parts.get(part, 0) + n
        return parts


def fused_rms_norm(x: Tensor, normalized_shape: object, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Stands in for rms_norm: its shapes and dtypes, no values."""
    y: Tensor = _RMSNorm.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32), weight)
        return torch.empty_like(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None]:
        x, _, weight = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)
