"""The expert op as a loop that anyone can read: the judge of every other backend, and a backend itself.

    y[t] = sum over places p of row t:  weight[p] * down_e( silu(gate_e(x[t])) * up_e(x[t]) ),   e = the expert of place p

Shape legend: T rows, D width, F hidden width of a group, E_g experts of a group, R places. Weights (E_g, D, F) or (E_g, F, D).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from momafuse.kernels.weights import GroupWeights


def swiglu_reference(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """One expert: x (T, D), gate and up (D, F), down (F, D) -> (T, D)."""
    return (silu(x @ gate) * (x @ up)) @ down


def experts_reference(x: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor | None, groups: list[GroupWeights]) -> Tensor:
    """x (T, D), rows (R,), offsets (E + 1,), weights (R,) or None -> y (T, D); rows in no expert get 0."""
    y = torch.zeros_like(x)
    bounds = offsets.tolist()
    e = 0
    for g in groups:
        for gate, up, down in zip(g.gate, g.up, g.down, strict=True):
            taken = rows[bounds[e] : bounds[e + 1]]
            out = swiglu_reference(x[taken], gate, up, down)
            if weights is not None:
                out = out * weights[bounds[e] : bounds[e + 1], None].to(out.dtype)
            y = y.index_add(0, taken, out)
            e += 1
    return y
