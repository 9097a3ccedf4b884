"""Muon for convolution kernels, Adam for the rest: the optimizers that tokenizers are trained with.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon; arXiv 2502.16982) takes the momentum M of a kernel, flattened to
(out, in * k * ..), and steps along its nearest semi-orthogonal matrix, so that all directions of a kernel learn at one pace:

    M <- b M + (1 - b) G      W <- (1 - lr wd) W - lr sqrt(max(1, rows / columns)) orthogonal((1 - b) G + b M)

The orthogonal factor comes from Newton-Schulz iterations of odd polynomials of degree 5, in bf16 where that is fast; of a
sharded kernel every rank computes the whole of it and keeps its shard. Biases, and kernels so narrow that there is nothing to
balance, are Adam's, without decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTUM = 0.95
ITERATIONS = 5
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
NARROW = 24  # rows or columns: below, Adam


def orthogonalise(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, columns) -> the same shape and dtype, all singular values within about 0.7..1.2."""
    a, b, c = POLYNOMIAL
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = (wide / (wide.norm() + 1e-7)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.to(matrix.dtype)
    out: Tensor = x if matrix.shape[0] <= matrix.shape[1] else x.T
    return out


class Muon(torch.optim.Optimizer):
    """Momentum and steps of kernels (out, in, k, ..)."""

    def __init__(self, kernels: Iterable[nn.Parameter], lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(kernels, {"lr": lr, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is not None:
                    self._move(kernel, kernel.grad, group["lr"], group["weight_decay"])

    def _move(self, kernel: Tensor, grad: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[kernel]
        if not state:
            state["momentum"] = torch.zeros_like(kernel)
        state["momentum"].lerp_(grad, 1 - MOMENTUM)
        update = grad.lerp(state["momentum"], MOMENTUM)
        whole = (update.full_tensor() if isinstance(update, DTensor) else update).flatten(1)
        scale = max(1.0, whole.shape[0] / whole.shape[1]) ** 0.5
        direction = orthogonalise(whole, self._dtype).view(kernel.shape)
        if isinstance(kernel, DTensor):
            direction = distribute_tensor(direction, kernel.device_mesh, kernel.placements, src_data_rank=None)
        kernel.mul_(1 - lr * weight_decay)
        kernel.sub_(direction, alpha=lr * scale)


def adam(groups: Sequence[Sequence[nn.Parameter]], lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """With its state made at once, at step 0: some parameters learn from a later step on, and what is saved before must say so
    (torch would make the state that it misses by a step of its own)."""
    optimizer = torch.optim.Adam([{"params": list(group)} for group in groups if group], lr=lr, betas=betas, fused=True)
    for group in optimizer.param_groups:
        for p in group["params"]:
            moments = {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **moments}
    return optimizer


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The kernels for Muon, and the parameters for Adam."""
    kernels: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in model.parameters():
        wide = parameter.ndim >= 3 and min(len(parameter), parameter[0].numel()) >= NARROW
        (kernels if wide else rest).append(parameter)
    return kernels, rest
