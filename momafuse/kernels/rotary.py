"""QK-norm and rotary positions: heads of queries and keys as the projection leaves them -> as attention reads them.

    y[b, n, s] = R(s) (x[b, s, n] / sqrt(mean(x^2) + eps) * g)         R turns the pair (x[i], x[i + K / 2]) by its angle i
    (Chameleon, arXiv 2405.09818: QK-norm over the head dimension, before RoPE, 2104.09864)

`rotate` is the second half in torch, on any device. On a GPU `norm_rotate` does all of it in one kernel, which reads x where it
stands and writes it transposed; without it that is a copy, a norm and four passes. The scale g may be each modality's own, and
each head's.
Computes no projection and no attention.

Shape legend: B sequences, S positions, N heads (H of queries, the others of keys), K width of a head, M scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from momafuse.kernels.experts import Backend, leaves_sizes
from momafuse.kernels.triton.rotary import norm_rotate_triton


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """x (B, H, S, K), table (2, B, 1, S, K / 2): the pair (x[i], x[i + K / 2]) is turned by its angle i."""
    cos, sin = table.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def rotates_in_one(backend: Backend, x: Tensor) -> bool:
    """Whether `norm_rotate` serves x under this backend: where the products are ours, too."""
    return x.dtype != torch.float64 and leaves_sizes(backend, x.device)


def norm_rotate(
    x: Tensor, queries: int, q_scales: list[Tensor], k_scales: list[Tensor], modality: Tensor, table: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x (B, S, N, K), modality (B, S) integers, table (2, B, 1, S, K / 2) fp32 -> (B, queries, S, K), (B, N - queries, S, K).

    Scales M times (K,): one for all rows, one for each modality, or none where there is no norm. Or, where every head has its
    own, M times (queries, K) and M times (N - queries, K).
    """
    q, k = norm_rotate_triton(x, queries, [*q_scales, *k_scales], modality, table, eps)
    return q, k
