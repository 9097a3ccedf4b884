"""Linear maps without bias: one matrix, or one for each modality.

    y[t] = W x[t]            or            y[t] = W_m(t) x[t]          (MoT, arXiv 2411.04996: modality-specific projections)

State: `weight (N, D)`, or `weight.MODALITY (N, D)`. The weight follows the dtype of the rows.
Which rows are of which modality comes with the by-modality plan, made once a batch; the products are in kernels/linear.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from momafuse.kernels.experts import Backend
from momafuse.kernels.linear import apply_linear
from momafuse.routing.plan import Plan


class Linear(nn.Module):
    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))

    def forward(self, x: Tensor, by_modality: Plan | None = None) -> Tensor:
        """x (B, S, D) -> (B, S, N); the plan is not read."""
        return linear(x, self.weight.to(x.dtype))


class UntiedLinear(nn.Module):
    def __init__(self, d_in: int, d_out: int, towers: Sequence[str], backend: Backend) -> None:
        """`towers`: of each modality, the name of its matrix."""
        super().__init__()
        self.names = tuple(dict.fromkeys(towers))  # in the vocabulary's order; a ParameterDict sorts its keys
        self.weight = nn.ParameterDict({name: nn.Parameter(torch.empty(d_out, d_in)) for name in self.names})
        self.backend: Backend = backend

    def forward(self, x: Tensor, by_modality: Plan | None) -> Tensor:
        """x (B, S, D) and the plan of its rows, none where there is one modality alone -> (B, S, N)."""
        if len(self.names) == 1:
            return linear(x, self.weight[self.names[0]].to(x.dtype))
        assert by_modality is not None, "an untied layer needs the by-modality plan"
        if not torch.is_grad_enabled() and by_modality.sizes is not None and (one := _only(by_modality.sizes)) is not None:
            return linear(x, self.weight[self.names[one]].to(x.dtype))  # with gradients, the others want theirs of zero
        weights = [w.to(x.dtype) for w in (self.weight[name] for name in self.names)]
        return apply_linear(x.flatten(0, 1), by_modality, weights, self.backend).view(*x.shape[:2], weights[0].shape[0])


def _only(sizes: Sequence[int]) -> int | None:
    """The one place whose size is not 0, or None."""
    there = [place for place, size in enumerate(sizes) if size]
    return there[0] if len(there) == 1 else None
