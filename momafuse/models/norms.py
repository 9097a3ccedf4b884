"""RMSNorm and LayerNorm, with one scale, or one for each modality, each head, or both.

    rms:    y = x / sqrt(mean(x^2) + eps) * g              (1910.07467)
    layer:  y = (x - mean) / sqrt(var + eps) * g + b       (Chameleon's QK-norm, arXiv 2405.09818)
    untied: g and b are those of the row's modality        (MoT, arXiv 2411.04996)
    heads:  g and b are those of the row's head            (the weights that Chameleon released)

State: `weight (K,)`, and `bias (K,)` of a LayerNorm; of H heads `(H, K)`; untied `weight.MODALITY`, `bias.MODALITY`. Mean and
square are over K in each case. Weights follow the dtype of the rows. The scales of rows are picked by a product with a one-hot
matrix, so that their gradient is a product too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

Kind = Literal["rms", "layer"]


class Norm(nn.Module):
    def __init__(self, width: int, eps: float, kind: Kind = "rms", heads: int | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(_shape(width, heads)))
        self.bias = nn.Parameter(torch.empty(_shape(width, heads))) if kind == "layer" else None

    def forward(self, x: Tensor, one_hot: Tensor | None = None) -> Tensor:
        """x (..., K), of heads (..., H, S, K) -> the same shape; `one_hot` is not read."""
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if weight.dim() > 1:
            return _scaled(x, self.eps, weight.unsqueeze(-2), None if bias is None else bias.unsqueeze(-2))
        if bias is None:
            return rms_norm(x, weight.shape, weight, self.eps)
        return layer_norm(x, weight.shape, weight, bias, self.eps)


class UntiedNorm(nn.Module):
    def __init__(self, width: int, eps: float, towers: Sequence[str], kind: Kind = "rms", heads: int | None = None) -> None:
        """`towers`: of each modality, the name of its scale."""
        super().__init__()
        self.eps = eps
        self.names = tuple(towers)  # in the vocabulary's order; a ParameterDict sorts its keys

        def of_each() -> nn.ParameterDict:
            return nn.ParameterDict({m: nn.Parameter(torch.empty(_shape(width, heads))) for m in dict.fromkeys(towers)})

        self.weight = of_each()
        self.bias = of_each() if kind == "layer" else None

    def forward(self, x: Tensor, one_hot: Tensor | None) -> Tensor:
        """x (B, ..., S, K), of heads (B, H, S, K), and the modality of each row as one_hot (B, S, M) -> the same shape as x."""
        assert one_hot is not None, "an untied norm needs the modality of its rows"
        bias = None if self.bias is None else self._of_rows(self.bias, one_hot, x)
        return _scaled(x, self.eps, self._of_rows(self.weight, one_hot, x), bias)

    def _of_rows(self, weights: nn.ParameterDict, one_hot: Tensor, x: Tensor) -> Tensor:
        """The weight of each row's modality, (B, 1, ..., S, K) as x needs it, or (B, H, S, K) of heads."""
        stacked = torch.stack([weights[name] for name in self.names]).to(x.dtype)
        picked = one_hot.to(x.dtype) @ stacked.flatten(1)
        if stacked.dim() > 2:
            return picked.view(*picked.shape[:2], *stacked.shape[1:]).transpose(1, 2)
        return picked.view(picked.shape[0], *[1] * (x.dim() - 3), *picked.shape[1:])


def _shape(width: int, heads: int | None) -> tuple[int, ...]:
    return (width,) if heads is None else (heads, width)


def _scaled(x: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The norm of x over its last dimension, then weights that broadcast over x; with a bias a LayerNorm."""
    width = x.shape[-1:]
    return rms_norm(x, width, None, eps) * weight if bias is None else layer_norm(x, width, eps=eps) * weight + bias


def scales_of(norm: nn.Module) -> list[Tensor] | None:
    """The scales of an RMSNorm, one or one for each modality in the vocabulary's order; none of no norm (nn.Identity).

    None for a LayerNorm, which is more than a scale.
    """
    if isinstance(norm, Norm | UntiedNorm) and norm.bias is not None:
        return None
    if isinstance(norm, UntiedNorm):
        return [norm.weight[name] for name in norm.names]
    return [norm.weight] if isinstance(norm, Norm) else []
