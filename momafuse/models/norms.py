"""RMSNorm and LayerNorm, with one scale, or one for each modality.

    rms:    y = x / sqrt(mean(x^2) + eps) * g              (1910.07467)
    layer:  y = (x - mean) / sqrt(var + eps) * g + b       (Chameleon's QK-norm, arXiv 2405.09818)
    untied: g and b are those of the row's modality        (MoT, arXiv 2411.04996)

State: `weight (K,)`, and `bias (K,)` of a LayerNorm; untied `weight.MODALITY`, `bias.MODALITY`. Weights follow the dtype of
the rows. The scales of rows are picked by a product with a one-hot matrix, so that their gradient is a product too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

Kind = Literal["rms", "layer"]


class Norm(nn.Module):
    def __init__(self, width: int, eps: float, kind: Kind = "rms") -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if kind == "layer" else None

    def forward(self, x: Tensor, one_hot: Tensor | None = None) -> Tensor:
        """x (..., K) -> the same shape; `one_hot` is not read."""
        weight = self.weight.to(x.dtype)
        if self.bias is None:
            return rms_norm(x, weight.shape, weight, self.eps)
        return layer_norm(x, weight.shape, weight, self.bias.to(x.dtype), self.eps)


class UntiedNorm(nn.Module):
    def __init__(self, width: int, eps: float, towers: Sequence[str], kind: Kind = "rms") -> None:
        """`towers`: of each modality, the name of its scale."""
        super().__init__()
        self.eps = eps
        self.names = tuple(towers)  # in the vocabulary's order; a ParameterDict sorts its keys

        def of_each() -> nn.ParameterDict:
            return nn.ParameterDict({m: nn.Parameter(torch.empty(width)) for m in dict.fromkeys(towers)})

        self.weight = of_each()
        self.bias = of_each() if kind == "layer" else None

    def forward(self, x: Tensor, one_hot: Tensor | None) -> Tensor:
        """x (B, ..., S, K) and the modality of each row as one_hot (B, S, M) -> the same shape as x."""
        assert one_hot is not None, "an untied norm needs the modality of its rows"
        width = x.shape[-1]
        if self.bias is None:
            return rms_norm(x, (width,), None, self.eps) * self._of_rows(self.weight, one_hot, x)
        y = layer_norm(x, (width,), eps=self.eps) * self._of_rows(self.weight, one_hot, x)
        return y + self._of_rows(self.bias, one_hot, x)

    def _of_rows(self, weights: nn.ParameterDict, one_hot: Tensor, x: Tensor) -> Tensor:
        """The weight of each row's modality, (B, 1, ..., S, K) as x needs it."""
        picked = one_hot.to(x.dtype) @ torch.stack([weights[name] for name in self.names]).to(x.dtype)
        return picked.view(picked.shape[0], *[1] * (x.dim() - 3), *picked.shape[1:])


def scales_of(norm: nn.Module) -> list[Tensor] | None:
    """The scales of an RMSNorm, one or one for each modality in the vocabulary's order; none of no norm (nn.Identity).

    None for a LayerNorm, which is more than a scale.
    """
    if isinstance(norm, Norm | UntiedNorm) and norm.bias is not None:
        return None
    if isinstance(norm, UntiedNorm):
        return [norm.weight[name] for name in norm.names]
    return [norm.weight] if isinstance(norm, Norm) else []
