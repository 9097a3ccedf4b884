"""Causal self-attention with rotary positions and QK-norm over all modalities together.

    q, k, v = W_qkv x;   q, k = rope(norm(q)), rope(norm(k));   y = W_out softmax(q k^T / sqrt(d) + mask) v
    (Chameleon, arXiv 2405.09818: QK-norm over the head dimension, before RoPE; RoPE: 2104.09864; grouped queries: 2305.13245;
    untied W_qkv, W_out and norms with one softmax over all rows: MoT, 2411.04996)

Shape legend: B sequences, S positions, D width, H heads, G heads of keys and values, K = D / H.
State: `qkv.weight ((H + 2 G) K, D)`: queries, keys, values; `out.weight (D, D)`, `q_norm.weight (K,)`, `k_norm.weight (K,)`,
or (H, K) and (G, K) where every head has its own, and with LayerNorm their `bias`; untied ones end in `.MODALITY`. No biases of
projections. Keys and values of earlier passes: memory.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from momafuse.config.schema import ModelConfig
from momafuse.kernels.attention import attend
from momafuse.kernels.experts import Backend
from momafuse.kernels.rotary import norm_rotate, rotate, rotates_in_one
from momafuse.models.context import Context
from momafuse.models.linear import Linear, UntiedLinear
from momafuse.models.norms import Norm, UntiedNorm, scales_of


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, modality_names: Sequence[str], backend: Backend) -> None:
        super().__init__()
        dim, a = config.dim, config.attention
        self.heads, self.kv_heads = config.n_heads, a.n_kv_heads or config.n_heads
        self.backend, self.eps = backend, config.norm_eps
        width, towers = dim // self.heads, config.tower_names(modality_names)

        def linear(d_out: int, name: str) -> nn.Module:
            return UntiedLinear(dim, d_out, towers, backend) if name in config.untie else Linear(dim, d_out)

        def norm(heads: int) -> nn.Module:
            if a.qk_norm == "none":
                return nn.Identity()
            own = heads if a.qk_norm_per_head else None
            if "norms" in config.untie:
                return UntiedNorm(width, config.norm_eps, towers, a.qk_norm, own)
            return Norm(width, config.norm_eps, a.qk_norm, own)

        self.qkv = linear((self.heads + 2 * self.kv_heads) * width, "qkv")
        self.out = linear(dim, "out")
        self.q_norm, self.k_norm = norm(self.heads), norm(self.kv_heads)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, S, D) -> (B, S, D); a row sees the rows before it, of its own span where the context has spans."""
        c, (b, s, d) = context, x.shape
        q, k, v = self._rotated(self.qkv(x, c.by_modality).unflatten(-1, (-1, d // self.heads)), c)
        y = attend(q, k, v, c.mask) if c.memory is None else c.memory.attend(q, k, v, c.mask)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, s, d), c.by_modality)
        return out

    def _rotated(self, heads: Tensor, c: Context) -> tuple[Tensor, Tensor, Tensor]:
        """heads (B, S, H + 2 G, K) -> queries (B, H, S, K), keys and values (B, G, S, K); the first two normed and rotated."""
        q_scales, k_scales = scales_of(self.q_norm), scales_of(self.k_norm)
        if q_scales is None or k_scales is None or not rotates_in_one(self.backend, heads):
            q, k, v = torch.split(heads.transpose(1, 2), [self.heads, self.kv_heads, self.kv_heads], dim=1)
            q, k = self._normed(self.q_norm, q, c), self._normed(self.k_norm, k, c)
            return rotate(q, c.table), rotate(k, c.table), v
        both, v = torch.split(heads, [self.heads + self.kv_heads, self.kv_heads], dim=2)
        q, k = norm_rotate(both, self.heads, q_scales, k_scales, c.rows.modality, c.table, self.eps)
        return q, k, v.transpose(1, 2)

    @staticmethod
    def _normed(norm: nn.Module, x: Tensor, c: Context) -> Tensor:
        y: Tensor = x if isinstance(norm, nn.Identity) else norm(x, c.one_hot)
        return y
