"""Muon for convolution kernels, Adam for the rest: the optimizer that the tokenizer is trained with.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon; arXiv 2502.16982) takes the momentum M of a kernel, flattened to
(out, in * k * ..), and steps along its nearest semi-orthogonal matrix, so that all directions of a kernel learn at one pace:

    M <- b M + (1 - b) G      W <- (1 - lr wd) W - lr sqrt(max(1, rows / columns)) orthogonal((1 - b) G + b M)

The orthogonal factor comes from Newton-Schulz iterations of odd polynomials of degree 5, in bf16 where that is fast.
Biases, and kernels so narrow that there is nothing to balance, are Adam's, without decay.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

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


class Muon:
    """Momentum and steps of a list of kernels (out, in, k, ..); `lr` is given at every step."""

    def __init__(self, kernels: Iterable[nn.Parameter], weight_decay: float, dtype: torch.dtype) -> None:
        self.kernels = list(kernels)
        self.momenta = [torch.zeros_like(kernel) for kernel in self.kernels]
        self.weight_decay = weight_decay
        self.dtype = dtype

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for kernel, momentum in zip(self.kernels, self.momenta, strict=True):
            assert kernel.grad is not None
            momentum.lerp_(kernel.grad, 1 - MOMENTUM)
            update = kernel.grad.lerp(momentum, MOMENTUM).flatten(1)
            scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            kernel.mul_(1 - lr * self.weight_decay)
            kernel.sub_(orthogonalise(update, self.dtype).view_as(kernel), alpha=lr * scale)
            kernel.grad = None


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The kernels for Muon, and the parameters for Adam."""
    kernels: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in model.parameters():
        wide = parameter.ndim >= 3 and min(len(parameter), parameter[0].numel()) >= NARROW
        (kernels if wide else rest).append(parameter)
    return kernels, rest
