"""Causal softmax attention, of all rows or of rows that see their own span (document) only.

    y[s] = sum over i in first[s] .. s of softmax_i(q[s] . k[i] / sqrt(K)) v[i],    first[s]: the first row of the span of s

The one place that says how, by what `who_sees_whom` returns:
- `Documents`, on a GPU in 16 bits: variable-length attention, where the spans are the documents of a batch (documents.py);
- `BlockMask`, on a GPU, where they are not, as among the rows that a mixture of depths keeps, or rows are in fp32:
  FlexAttention (arXiv 2412.05496), which leaves out blocks where nobody sees anybody;
- a mask of all pairs, which costs twice the products and switches torch's fast kernels off: on a CPU, which has no gradients
  of the others, under `reference`, and where the number of rows changes from call to call;
- None, where there are no spans: torch's own choice, cuDNN's first on a GPU.

Shape legend: B sequences, S rows of one, H heads, G heads of keys and values, K width of a head, n blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from momafuse.kernels.capability import has_triton
from momafuse.kernels.documents import WIDEST, attention_varlen
from momafuse.kernels.experts import Backend

BLOCK = 128  # rows; FlexAttention's own choice
NARROWEST = 16  # head that it takes
FASTEST_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Documents:
    """Spans that are documents, one after the other through all sequences."""

    begins: Tensor  # (n + 1,) int32, the first row of each among the B * S, then B * S
    longest: int  # rows: none has more


Mask = Tensor | BlockMask | Documents


def who_sees_whom(
    backend: Backend, span: Tensor, begins: Tensor | None, width: int, dtype: torch.dtype, *, constant: bool
) -> Mask:
    """Rows see their own span (B, S), for heads of `width` in `dtype`. `begins`: as in `Documents`, where the spans are those;
    `constant`: the number of rows is, over all calls."""
    if begins is not None and sees_documents(backend, span, width, dtype):
        torch._dynamo.maybe_mark_dynamic(begins, 0)  # each batch has its own number of documents, and compiles nothing anew
        return Documents(begins, span.shape[1])
    return blocks(span) if constant and sees_in_blocks(backend, span, width, dtype) else pairs(span, dtype)


def sees_documents(backend: Backend, span: Tensor, width: int, dtype: torch.dtype) -> bool:
    """Whether variable-length attention serves rows on this device, but under `reference`."""
    fits = width % 8 == 0 and width <= WIDEST and dtype in (torch.float16, torch.bfloat16)
    return span.is_cuda and has_triton(span.device) and fits and backend != "reference"


def sees_in_blocks(backend: Backend, span: Tensor, width: int, dtype: torch.dtype) -> bool:
    """Whether FlexAttention serves these rows: on GPUs that Triton compiles for, but under `reference`."""
    plain = backend == "reference" or dtype == torch.float64 or width < NARROWEST
    return span.is_cuda and has_triton(span.device) and not plain


def pairs(span: Tensor, dtype: torch.dtype) -> Tensor:
    """span (B, S) -> (B, 1, S, S): 0 where a row sees another (itself and the earlier ones of its own span), else -inf.

    Not boolean: attention would make such a mask of it in every layer, and keep each for its backward.
    """
    same = (span[:, :, None] == span[:, None, :]).tril()[:, None]
    return torch.zeros(same.shape, dtype=dtype, device=span.device).masked_fill(~same, float("-inf"))


def blocks(span: Tensor) -> BlockMask:
    """The same of spans whose rows stand together, block by block: of a row of blocks only the ends are looked at."""
    s, device = span.shape[1], span.device
    place = torch.arange(s, device=device, dtype=torch.int32)
    begins = pad(span[:, 1:] != span[:, :-1], (1, 0), value=True)
    first = torch.where(begins, place, 0).cummax(1).values

    def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (first[b, i] <= j) & (j <= i)

    i = torch.arange(-(-s // BLOCK), device=device)
    low, high = first[:, i * BLOCK], first[:, (i * BLOCK + BLOCK - 1).clamp(max=s - 1)]  # (B, n): of a block's ends
    seen = (i * BLOCK + BLOCK > low[..., None]) & (i <= i[:, None])
    whole = (i * BLOCK >= high[..., None]) & (i < i[:, None])
    broken = seen & ~whole
    by_rows = *_in_order(broken), *_in_order(whole)
    by_columns = *_in_order(broken.mT), *_in_order(whole.mT)  # for the gradients of keys and values
    return BlockMask((s, s), *by_rows, *by_columns, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=sees)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """q (B, H, S, K), k and v (B, G, S, K) -> (B, H, S, K); without a mask a row sees all rows before it."""
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, Documents):
        q_rows, k_rows, v_rows = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # views, as norm_rotate leaves them
        y = attention_varlen(q_rows, k_rows, v_rows, mask.begins, mask.longest)
        return y.view(q.shape[0], q.shape[2], *y.shape[1:]).transpose(1, 2)
    if isinstance(mask, BlockMask):
        return _compiled()(q, k, v, block_mask=mask, enable_gqa=grouped, kernel_options={"BACKEND": "TRITON"})
    if mask is None and q.is_cuda:
        with sdpa_kernel(FASTEST_FIRST, set_priority=True):
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)


def _in_order(dense: Tensor) -> tuple[Tensor, Tensor]:
    """(B, n, n) bool -> how many blocks each row of blocks has (B, 1, n), and their numbers first (B, 1, n, n).

    Contiguous, whatever `dense` is: sorting keeps strides, and the kernels read these tables as raw memory.
    """
    counts, numbers = dense.sum(2), dense.to(torch.int8).argsort(dim=2, descending=True, stable=True)
    return counts.to(torch.int32)[:, None].contiguous(), numbers.to(torch.int32)[:, None].contiguous()


@cache
def _compiled() -> Callable[..., Tensor]:
    """Its kernels exist compiled only; inside a compiled block it is part of that. Shapes are constants of a run."""
    found: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)
    return found
