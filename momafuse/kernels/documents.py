"""Causal softmax attention within documents that lie one after the other, by torch's variable-length flash attention.

    y[t] = sum over i in first[t] .. t of softmax_i(q[t] . k[i] / sqrt(K)) v[i],    first[t]: the first row of t's document
    (FlashAttention-2, arXiv 2307.08691, as torch.nn.attention.varlen has it)

Computes nothing for pairs of other documents, not even whole blocks, and compiles nothing. Its backward would add in another
order each time: the op `momafuse::attention_varlen` asks for the deterministic one, for this call alone, so that runs repeat
to the last digit. Serves GPUs from compute capability 8.0 in 16 bits; no dropout. Who takes it: attention.py.

Shape legend: T rows of all sequences, H heads, G heads of keys and values, K width of a head, n documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import deterministic

WIDEST = 256  # head that flash attention takes; its width is a multiple of 8
FILLS = "fill_uninitialized_memory"  # a property of that module, which type checkers do not see
# What varlen_attn calls, too; its own backward has no way to be deterministic.
_flash = torch.ops.aten._flash_attention_forward
_flash_backward = torch.ops.aten._flash_attention_backward


def attention_varlen(q: Tensor, k: Tensor, v: Tensor, begins: Tensor, longest: int) -> Tensor:
    """q (T, H, K), k and v (T, G, K) with neighbouring columns; begins (n + 1,) int32: the first row of each document, then T;
    no document is longer than `longest` -> (T, H, K)."""
    y: Tensor = _attention(q, k, v, begins, longest)[0]
    return y


@torch.library.custom_op("momafuse::attention_varlen", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor, begins: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """-> y (T, H, K) and the log-sum-exp of each row (H, T) fp32."""
    y, lse, *_ = _flash(q, k, v, begins, begins, longest, longest, 0.0, True, return_debug_mask=False)
    return y, lse


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, begins: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


@torch.library.custom_op("momafuse::attention_varlen_backward", mutates_args=())
def _attention_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, begins: Tensor, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradients of q, k and v."""
    state, unused = torch.zeros(2, dtype=torch.uint64, device=q.device), q.new_empty(0)  # of dropout, which there is none of
    with _deterministic():
        dq, dk, dv = _flash_backward(
            dy.contiguous(), q, k, v, y, lse, begins, begins, longest, longest, 0.0, True, state, unused
        )
    return dq, dk, dv


@_attention_backward.register_fake
def _(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, begins: Tensor, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Algorithms that give the same result each time, without filling fresh memory as torch would under that setting."""
    was, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills: bool = getattr(deterministic, FILLS)
    torch.use_deterministic_algorithms(True)
    setattr(deterministic, FILLS, False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)
        setattr(deterministic, FILLS, fills)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, begins, ctx.longest = inputs
    ctx.set_materialize_grads(False)  # no zeros for the log-sum-exp, which has no gradient
    ctx.save_for_backward(q, k, v, *output, begins)


def _backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Any, ...]:
    q, k, v, y, lse, begins = ctx.saved_tensors
    return *_attention_backward(dy, q, k, v, y, lse, begins, ctx.longest), None, None


_attention.register_autograd(_backward, setup_context=_setup_context)
