"""One matrix for each modality, applied to the rows of that modality: the untied projections of a mixture of transformers.

    y[t] = W_m(t) x[t]                 (MoT, arXiv 2411.04996, Algorithm 1: the modality-specific projections)

The plan is the by-modality plan: one "expert" for each modality, every row in exactly one place. Backends as for the expert op
(experts.py): `reference` reads offsets on the host; `bmm` and `grouped_mm` are the same here and need sizes that the host
knows, a plan without them is the reference's. They gather rows by modality once, multiply stretches and gather back, so that
gradients of gathers are gathers; so does `auto` with such sizes on a GPU, too, where gathers cost less than what kernels that
gather as they load lose (docs/kernels.md).

Shape legend: T rows, D width of x, N width of y, M modalities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from momafuse.kernels.experts import Backend, ExpertPlan, choose
from momafuse.kernels.triton.linear import linear_triton


def apply_linear(x: Tensor, plan: ExpertPlan, weights: list[Tensor], backend: Backend = "auto") -> Tensor:
    """x (T, D), weights M times (N, D) in the dtype of x -> y (T, N)."""
    chosen = choose(backend, x, plan)
    if chosen == "triton" and (backend == "triton" or plan.sizes is None):
        return linear_triton(x, plan.rows, plan.offsets, weights, plan.sizes)
    if chosen == "reference" or plan.sizes is None:
        return linear_reference(x, plan.rows, plan.offsets, weights)
    y: Tensor = _linear(x, plan.rows, plan.slots[:, 0], weights, list(plan.sizes))[0]
    return y


def linear_reference(x: Tensor, rows: Tensor, offsets: Tensor, weights: list[Tensor]) -> Tensor:
    """The loop that anyone can read."""
    y = x.new_zeros(x.shape[0], weights[0].shape[0])
    bounds = offsets.tolist()
    for m, w in enumerate(weights):
        mine = rows[bounds[m] : bounds[m + 1]]
        y = y.index_add(0, mine, x[mine] @ w.t())
    return y


@torch.library.custom_op("momafuse::grouped_linear", mutates_args=())
def _linear(x: Tensor, rows: Tensor, places: Tensor, weights: list[Tensor], sizes: list[int]) -> tuple[Tensor, Tensor]:
    """rows (T,) by modality, places (T,) the place of each row -> y (T, N), and x by modality for the backward."""
    xs = x.index_select(0, rows)
    ys = x.new_empty(x.shape[0], weights[0].shape[0])
    for part, out, w in zip(torch.split(xs, sizes), torch.split(ys, sizes), weights, strict=True):
        torch.mm(part, w.t(), out=out)
    return ys.index_select(0, places), xs


@_linear.register_fake
def _(x: Tensor, rows: Tensor, places: Tensor, weights: list[Tensor], sizes: list[int]) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], weights[0].shape[0]), x.new_empty(x.shape)


@torch.library.custom_op("momafuse::grouped_linear_backward", mutates_args=())
def _linear_backward(
    dy: Tensor, xs: Tensor, rows: Tensor, places: Tensor, weights: list[Tensor], sizes: list[int], needed: list[bool]
) -> tuple[Tensor, list[Tensor]]:
    """-> dx (T, D), and the gradient of each matrix, empty where it is not needed."""
    dys, dxs = dy.index_select(0, rows), torch.empty_like(xs)
    dweights = []
    parts = (torch.split(t, sizes) for t in (xs, dys, dxs))
    for part, dpart, dout, w, need in zip(*parts, weights, needed, strict=True):
        torch.mm(dpart, w, out=dout)
        dweights.append(dpart.t() @ part if need else dy.new_empty(0))
    return dxs.index_select(0, places), dweights


@_linear_backward.register_fake
def _(
    dy: Tensor, xs: Tensor, rows: Tensor, places: Tensor, weights: list[Tensor], sizes: list[int], needed: list[bool]
) -> tuple[Tensor, list[Tensor]]:
    return dy.new_empty(xs.shape), [dy.new_empty(w.shape if n else (0,)) for w, n in zip(weights, needed, strict=True)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, rows, places, weights, sizes = inputs
    ctx.sizes = sizes
    ctx.set_materialize_grads(False)  # no zeros for the output that is only kept
    ctx.save_for_backward(output[1], rows, places, *weights)


def _backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Any, ...]:
    xs, rows, places, *weights = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[3])
    dx, dweights = _linear_backward(dy, xs, rows, places, weights, ctx.sizes, needed)
    return dx, None, None, [d if need else None for d, need in zip(dweights, needed, strict=True)], None


_linear.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.momafuse.grouped_linear)
def _flops(x: Any, rows: Any, places: Any, weights: Any, sizes: Any, *_: Any, **__: Any) -> int:
    return sum(2 * n * w[0] * w[1] for n, w in zip(sizes, weights, strict=True))


@register_flop_formula(torch.ops.momafuse.grouped_linear_backward)
def _flops_backward(*args: Any, **_: Any) -> int:
    weights, sizes, needed = args[4:7]
    return sum(2 * n * w[0] * w[1] * (1 + need) for n, w, need in zip(sizes, weights, needed, strict=True))
