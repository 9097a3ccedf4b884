"""Causal self-attention with rotary positions and QK-norm, shared by all modalities.

    q, k, v = W_qkv x;   q, k = rope(norm(q)), rope(norm(k));   y = W_out softmax(q k^T / sqrt(d) + mask) v
    (Chameleon, arXiv 2405.09818: QK-norm over the head dimension, before RoPE; RoPE: 2104.09864)

Shape legend: B sequences, S positions, D width, H heads, K = D / H. State: `qkv.weight (3 D, D)`, `out.weight (D, D)`,
`q_norm.weight (K,)`, `k_norm.weight (K,)`. No biases, no key-value cache, no grouped queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def rotary_table(position: Tensor, head_dim: int, theta: float) -> Tensor:
    """position (B, S) -> (2, B, 1, S, K / 2) fp32: cosines and sines of the angles position * theta ** (-2 i / K)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=position.device, dtype=torch.float64) / head_dim)
    angle = (position.double()[:, None, :, None] * frequency).float()
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """x (B, H, S, K): the pair (x[i], x[i + K / 2]) is turned by the angle of its position and frequency i."""
    cos, sin = table.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def document_mask(document: Tensor) -> Tensor:
    """document (B, S) -> (B, 1, S, S) bool: a position sees itself and earlier positions of its own document."""
    same = document[:, :, None] == document[:, None, :]
    return same.tril()[:, None]


class Attention(nn.Module):
    def __init__(self, dim: int, n_heads: int, qk_norm: bool, eps: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.q_norm = nn.RMSNorm(dim // n_heads, eps) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(dim // n_heads, eps) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, table: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, S, D), table of `rotary_table`, mask of `document_mask` or None for all earlier positions -> (B, S, D)."""
        b, s, d = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.q_norm(q), table), rotate(self.k_norm(k), table)
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, s, d))
        return out
