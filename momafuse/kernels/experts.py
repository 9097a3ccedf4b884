"""The expert op and its backends: y[t] = sum over places p of row t of weight[p] * SwiGLU_e(p)(x[t]).

`reference` is the loop that judges the others; it serves plans whose sizes only the device knows, too, and waits for them.
`bmm` is the batched product. `auto` is `bmm` where the host knows the sizes, else `reference`.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from momafuse.kernels.bmm import experts_bmm, swiglu_bmm
from momafuse.kernels.reference import experts_reference, swiglu_reference
from momafuse.kernels.weights import GroupWeights

Backend = Literal["auto", "reference", "bmm"]


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
    if backend == "auto" and plan is not None and plan.sizes is None:
        backend = "reference"
    if backend == "reference":
        if plan is None:
            return swiglu_reference(x, *(w[0] for w in groups[0]))
        return experts_reference(x, plan.rows, plan.offsets, plan.weights, groups)
    if plan is None:
        return swiglu_bmm(x, groups[0])
    if plan.sizes is None:
        raise ValueError(
            "trainer.backend=bmm: only the device knows the sizes of this router's experts; use trainer.backend=auto"
        )
    return experts_bmm(x, plan.rows, plan.slots, plan.weights, plan.sizes, groups)
