"""Who sees whom, by pairs and by blocks, and attention under both, against a loop over rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.data.batch import begins_of
from momafuse.kernels import attention
from momafuse.kernels.attention import (
    Documents,
    attend,
    blocks,
    pairs,
    sees_documents,
    sees_in_blocks,
    who_sees_whom,
)
from tests.kernels import documents
from tests.kernels.blocks import on_cpu


def sees(span: torch.Tensor) -> torch.Tensor:
    """(B, S, S) bool, pair by pair."""
    b, s = span.shape
    rows = [[[bool(span[n, i] == span[n, j]) and j <= i for j in range(s)] for i in range(s)] for n in range(b)]
    return torch.tensor(rows)


def of_blocks(mask, s: int, by_query: bool) -> torch.Tensor:
    """What the lists of blocks say of each pair: none, all, or what the function of pairs says."""
    kind = "kv" if by_query else "q"
    size, found = mask.BLOCK_SIZE[0], torch.zeros(mask.kv_num_blocks.shape[0], s, s, dtype=torch.bool)
    at = torch.arange(s)
    for name, whole in ((kind, False), (f"full_{kind}", True)):
        counts, numbers = getattr(mask, f"{name}_num_blocks"), getattr(mask, f"{name}_indices")
        for n in range(len(found)):
            allowed = mask.mask_mod(torch.tensor(n), torch.tensor(0), at[:, None], at[None, :]) | torch.tensor(whole)
            for row in range(counts.shape[2]):
                for column in numbers[n, 0, row, : counts[n, 0, row]].tolist():
                    i, j = (row, column) if by_query else (column, row)
                    here = slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size)
                    assert not found[n][here].any(), "a block is in one list, once"
                    found[n][here] = allowed[here]
    return found


SPANS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def span_of(*lengths: list[int]) -> torch.Tensor:
    """Sequences of spans of these lengths, cut to the shortest."""
    rows = [torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n)) for n in lengths]
    return torch.stack([row[: min(map(len, rows))] for row in rows])


@settings(max_examples=40)
@given(SPANS, SPANS)
def test_pairs_and_blocks_are_those_of_the_loop(first, second):
    span = span_of(first, second)
    right, s = sees(span), span.shape[1]
    assert torch.equal(pairs(span, torch.float32)[:, 0] == 0, right)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", 8)
        mask = blocks(span)
    assert torch.equal(of_blocks(mask, s, by_query=True), right)
    assert torch.equal(of_blocks(mask, s, by_query=False), right)


def test_blocks_where_nobody_sees_anybody_are_left_out():
    mask = blocks(span_of([256, 256, 512]))
    assert mask.kv_num_blocks.tolist() == [[[1] * 8]]  # the diagonal
    assert mask.full_kv_num_blocks.tolist() == [[[0, 1, 0, 1, 0, 1, 2, 3]]]


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["as many keys", "grouped"])
@pytest.mark.parametrize("lengths", [[50], [7, 1, 30, 12], [16, 16, 18]], ids=str)
def test_attention_by_blocks_is_that_by_pairs_with_every_gradient(monkeypatch, lengths, heads):
    on_cpu(monkeypatch, 16)
    span = span_of(lengths, lengths[::-1])
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, span.shape[1], h, 16, generator=g).transpose(1, 2).requires_grad_() for h in (*heads, heads[1]))
    direction = torch.randn(q.shape, generator=g)
    results = []
    for mask in (blocks(span), pairs(span, torch.float32)):
        y = attend(q, k, v, mask)
        results.append([y, *torch.autograd.grad(y, (q, k, v), direction)])
    for by_blocks, by_pairs in zip(*results, strict=True):
        torch.testing.assert_close(by_blocks, by_pairs, rtol=1e-5, atol=1e-5)


def test_a_cpu_takes_pairs():
    assert not sees_in_blocks("triton", torch.zeros(1, 4), 64, torch.float32)
    assert not sees_documents("triton", torch.zeros(1, 4), 64, torch.bfloat16)


@given(SPANS, SPANS)
def test_documents_begin_where_the_loop_says(first, second):
    span = span_of(first, second)
    flat = [(n, int(i)) for n, row in enumerate(span) for i in row]
    begins = [t for t in range(len(flat)) if t == 0 or flat[t] != flat[t - 1]]
    assert begins_of(span).tolist() == [*begins, len(flat)]
    assert begins_of(span).dtype == torch.int32


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["as many keys", "grouped"])
@pytest.mark.parametrize("lengths", [[50], [7, 1, 30, 12], [16, 16, 18]], ids=str)
def test_attention_by_documents_is_that_by_pairs_with_every_gradient(monkeypatch, lengths, heads):
    """With the layouts of a layer: queries and keys by row, values as a part of their projection."""
    documents.on_cpu(monkeypatch)
    span = span_of(lengths, lengths[::-1])
    g = torch.Generator().manual_seed(0)
    both, wide = (
        torch.randn(2, span.shape[1], n, 16, generator=g).requires_grad_() for n in (sum(heads), heads[0] + 2 * heads[1])
    )
    direction = torch.randn(2, heads[0], span.shape[1], 16, generator=g)
    results = []
    for mask in (Documents(begins_of(span), span.shape[1]), pairs(span, torch.float32)):
        q, k = (x.transpose(1, 2) for x in both.split(list(heads), dim=2))
        y = attend(q, k, wide[:, :, sum(heads) :].transpose(1, 2), mask)
        assert y.transpose(1, 2).is_contiguous() or isinstance(mask, torch.Tensor), "the output projection reads it as it lies"
        results.append([y, *torch.autograd.grad(y, (both, wide), direction)])
    for by_documents, by_pairs in zip(*results, strict=True):
        torch.testing.assert_close(by_documents, by_pairs, rtol=1e-5, atol=1e-5)


def test_the_setting_of_the_process_stays_what_it_was(monkeypatch):
    documents.on_cpu(monkeypatch)
    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    for fills in (True, False):
        torch.utils.deterministic.fill_uninitialized_memory = fills
        attend(q, q, q, Documents(torch.tensor([0, 4], dtype=torch.int32), 4)).sum().backward()
        assert torch.utils.deterministic.fill_uninitialized_memory is fills
        assert not torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True


WAYS = [
    # on a GPU that is served, dtype, width of a head, documents of a batch, constant rows, backend: the way
    (True, torch.bfloat16, 64, True, True, "auto", "documents"),
    (True, torch.bfloat16, 64, True, False, "auto", "documents"),
    (True, torch.float16, 128, True, True, "bmm", "documents"),
    (True, torch.bfloat16, 64, False, True, "auto", "blocks"),
    (True, torch.bfloat16, 64, False, False, "auto", "pairs"),
    (True, torch.float32, 64, True, True, "auto", "blocks"),
    (True, torch.bfloat16, 60, True, True, "auto", "blocks"),
    (True, torch.bfloat16, 8, False, True, "auto", "pairs"),
    (True, torch.float64, 64, True, True, "auto", "pairs"),
    (True, torch.bfloat16, 64, True, True, "reference", "pairs"),
    (False, torch.bfloat16, 64, True, True, "auto", "pairs"),
]


@pytest.mark.parametrize(("served", "dtype", "width", "of_batch", "constant", "backend", "way"), WAYS, ids=str)
def test_which_way_is_taken(monkeypatch, served, dtype, width, of_batch, constant, backend, way):
    class OnGpu(torch.Tensor):
        is_cuda = served

    monkeypatch.setattr(attention, "has_triton", lambda device: served)
    span = torch.tensor([[0, 0, 1, 1]]).as_subclass(OnGpu)
    begins = begins_of(torch.tensor([[0, 0, 1, 1]])) if of_batch else None
    mask = who_sees_whom(backend, span, begins, width, dtype, constant=constant)
    names = {Documents: "documents", attention.BlockMask: "blocks"}
    assert names.get(type(mask), "pairs") == way


@settings(max_examples=20)
@given(SPANS, SPANS)
def test_tables_of_blocks_lie_as_the_kernels_read_them(first, second):
    """FlexAttention's kernels read them as raw memory, row after row, whatever their strides say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", 8)
        mask = blocks(span_of(first, second))
    tables = {name: table for name, table in vars(mask).items() if isinstance(table, torch.Tensor)}
    assert len(tables) == 8
    assert [name for name, table in tables.items() if not table.is_contiguous()] == []
