"""Variable-length attention on a CPU, for tests: torch's kernels need a GPU, so plain ops compute the same from `begins`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from momafuse.kernels import attention, documents


def each(q: Tensor, k: Tensor, begins: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Of every document: its rows, the scores (H, S, S) of pairs, -inf for later rows, and the scaled keys (S, H, K)."""
    for first, end in itertools.pairwise(begins.tolist()):
        rows = slice(first, end)
        keys = k[rows].repeat_interleave(q.shape[1] // k.shape[1], dim=1) * q.shape[2] ** -0.5
        scores = torch.einsum("shk,thk->hst", q[rows], keys)
        yield rows, scores.masked_fill(~torch.ones(scores.shape[1:], dtype=torch.bool).tril(), float("-inf")), keys


def plain(q: Tensor, k: Tensor, v: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """What the forward of flash attention returns: rows (T, H, K) and log-sum-exps (H, T)."""
    y, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[1], q.shape[0])
    for rows, scores, _ in each(q, k, begins):
        y[rows] = torch.einsum("hst,thk->shk", scores.softmax(-1), v[rows].repeat_interleave(q.shape[1] // v.shape[1], dim=1))
        lse[:, rows] = scores.logsumexp(-1)
    return y, lse


def plain_backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, begins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Below autograd, where ops have their bodies, gradients are written out: ds = p (dp - sum of p dp)."""
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    for rows, scores, keys in each(q, k, begins):
        p = scores.softmax(-1)
        dp = torch.einsum("shk,thk->hst", dy[rows], v[rows].repeat_interleave(groups, dim=1))
        ds = p * (dp - (p * dp).sum(-1, keepdim=True))
        dq[rows] = torch.einsum("hst,thk->shk", ds, keys)
        by_head = torch.einsum("hst,shk->thk", ds, q[rows]) * q.shape[2] ** -0.5
        dk[rows] = by_head.unflatten(1, (-1, groups)).sum(2)
        dv[rows] = torch.einsum("hst,shk->thk", p, dy[rows]).unflatten(1, (-1, groups)).sum(2)
    return dq, dk, dv


def on_cpu(patch: pytest.MonkeyPatch) -> None:
    """Every mask of documents as on a GPU, whatever the dtype; the deterministic backward is asked for."""

    def forward(q, k, v, begins, same, longest, as_long, dropout, causal, *, return_debug_mask):
        assert same is begins
        assert longest == as_long
        assert (dropout, causal, return_debug_mask) == (0.0, True, False)
        assert begins.dtype == torch.int32
        assert int(begins.diff().max()) <= longest
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1, "flash attention reads columns side by side"
        return *plain(q, k, v, begins), None, None, None

    def backward(dy, q, k, v, y, lse, begins, same, longest, as_long, dropout, causal, state, unused):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert all(torch.equal(a, b) for a, b in zip(plain(q, k, v, begins), (y, lse), strict=True))
        return plain_backward(dy, q, k, v, begins)

    patch.setattr(documents, "_flash", forward)
    patch.setattr(documents, "_flash_backward", backward)
    patch.setattr(attention, "sees_documents", lambda *_: True)
