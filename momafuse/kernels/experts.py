"""The expert op and its backends: y[t] = sum over places p of row t of weight[p] * SwiGLU_e(p)(x[t]).

    reference   the loop that judges the others; serves plans whose sizes only the device knows, too, and waits for them
    bmm         products of torch, batched where the experts of a group have equal sizes, on any device where the host knows
                the sizes; on a CPU, where nothing is waited for, it reads them from the plan
    grouped_mm  torch's grouped products instead, where experts of a group have unequal sizes that the host knows
    triton      kernels of ours for GPUs from compute capability 8.0: sizes stay on the device

`auto` is triton on such a GPU, else bmm, or the reference where only a GPU knows the sizes. One expert that takes every
row is no sparse product: bmm computes it for triton, too. What is said here of backends holds for kernels/linear.py as well.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.kernels.bmm import experts_bmm, swiglu_bmm
from momafuse.kernels.capability import has_triton, triton_serves
from momafuse.kernels.reference import experts_reference, swiglu_reference
from momafuse.kernels.triton.experts import experts_triton
from momafuse.kernels.weights import GroupWeights

Backend = Literal["auto", "reference", "bmm", "grouped_mm", "triton"]


class ExpertPlan(Protocol):
    """What the op reads of a plan; `routing.plan.Plan` is one."""

    @property
    def rows(self) -> Tensor: ...
    @property
    def offsets(self) -> Tensor: ...
    @property
    def weights(self) -> Tensor | None: ...
    @property
    def slots(self) -> Tensor: ...
    @property
    def sizes(self) -> tuple[int, ...] | None: ...


def apply_experts(x: Tensor, plan: ExpertPlan | None, groups: list[GroupWeights], backend: Backend = "auto") -> Tensor:
    """x (T, D) in the dtype of the weights -> y (T, D). Without a plan the one expert of the one group takes every row.

    Rows that no expert takes get 0. Raises ValueError where the backend cannot serve the plan.
    """
    if plan is None:
        return swiglu_reference(x, *(w[0] for w in groups[0])) if backend == "reference" else swiglu_bmm(x, groups[0])
    chosen = choose(backend, x, plan)
    if chosen == "reference":
        return experts_reference(x, plan.rows, plan.offsets, plan.weights, groups)
    if chosen == "triton":
        return experts_triton(x, plan.rows, plan.offsets, plan.weights, plan.slots, plan.sizes, groups)
    if plan.sizes is not None:
        offsets = plan.offsets if chosen == "grouped_mm" else None
        return experts_bmm(x, plan.rows, plan.slots, plan.weights, plan.sizes, groups, offsets)
    if chosen == "grouped_mm" or x.device.type != "cpu":
        raise ValueError(
            f"trainer.backend={chosen}: only the device knows the sizes of this router's experts; use trainer.backend=auto"
        )
    return _on_cpu(x, plan, groups)


def _on_cpu(x: Tensor, plan: ExpertPlan, groups: list[GroupWeights]) -> Tensor:
    """The products of a plan whose sizes the host reads from it.

    In bf16 the first product of a shape takes ten times as long as the others (a kernel is made for it: 1.4 ms against 0.14),
    and sizes are new on every step. So each expert's places are filled up with row 0 and weight 0 to a multiple of a sixteenth
    of an even share: a few shapes for all steps.
    """
    ends = plan.offsets.tolist()
    sizes, used = [b - a for a, b in pairwise(ends)], ends[-1]
    rows, slots, weights = plan.rows[:used], plan.slots, None if plan.weights is None else plan.weights[:used]
    if x.dtype != torch.bfloat16:
        return experts_bmm(x, rows, slots, weights, sizes, groups)
    step = 1 << max(4, (used // (16 * len(sizes))).bit_length() - 1)
    filled = [-(-n // step) * step for n in sizes]
    shift = torch.tensor([0, *accumulate(f - n for f, n in zip(filled, sizes, strict=True))][:-1])
    places = torch.arange(used) + shift.repeat_interleave(torch.tensor(sizes))
    weights = x.new_ones(used, dtype=torch.float32) if weights is None else weights
    weights = weights.new_zeros(sum(filled)).index_copy(0, places, weights)
    slots = torch.where(slots >= 0, places[slots.clamp(min=0)], -1) if used else slots
    rows = rows.new_zeros(sum(filled)).index_copy(0, places, rows)
    return experts_bmm(x, rows, slots, weights, filled, groups, used=used)


def choose(backend: Backend, x: Tensor, plan: ExpertPlan) -> Backend:
    """What `auto` stands for; others stand for themselves."""
    if backend != "auto":
        return backend
    if triton_serves(x):
        return "triton"
    return "reference" if plan.sizes is None and x.device.type != "cpu" else "bmm"


def leaves_sizes(backend: Backend, device: torch.device) -> bool:
    """Whether products on `device` leave sizes there that only the device knows."""
    return backend == "triton" or (backend == "auto" and device.type == "cuda" and has_triton(device))


def check_backend(backend: Backend, device: torch.device) -> None:
    """Raises UserError where the device cannot do what the backend needs."""
    if backend == "triton" and not has_triton(device):
        needs = "needs triton and a GPU of compute capability 8.0 or above"
        raise UserError(f"trainer.backend=triton: {needs}, and this is {device}; write trainer.backend=auto")
