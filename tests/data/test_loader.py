from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.data.batch import Batch
from momafuse.data.corpus import Split
from momafuse.data.loader import Loader
from momafuse.data.packing import PackPlan
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary
from tests.data.toy import Case, cases, starter_like

ROWS = ("tokens", "targets", "modality", "document", "position", "sequence")
EVEN = {"pictures": 1.0, "glosses": 1.0}


@pytest.fixture(scope="module")
def starter() -> tuple[Split, Vocabulary]:
    return starter_like(300, 1000)


def loader(starter: tuple[Split, Vocabulary], seed: int = 0) -> Loader:
    split, vocabulary = starter
    return Loader(split, vocabulary, PackPlan(split, (128, 128), EVEN, seed, 64), (128, 128))


def same(a: Batch, b: Batch) -> bool:
    return a.budget == b.budget and all(torch.equal(getattr(a, name), getattr(b, name)) for name in (*ROWS, "begins", "order"))


@given(cases(), st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_a_batch_agrees_with_a_loop_over_tokens(case: Case, sequences: list[int]) -> None:
    plan = PackPlan(*case.plan_arguments)
    batch = Loader(case.split, case.vocabulary, plan, case.budget).batch(sequences)
    length, kinds = sum(case.budget), case.vocabulary.modality_of_ids()
    rows: list[list[tuple[int, int, int, int]]] = []  # token, target, modality, document
    for sequence in sequences:
        row: list[tuple[int, int, int, int]] = []
        for number, (document, start, stop) in enumerate(plan.pieces(sequence)):
            base = int(case.split.offsets[document])
            for at in range(start, stop):
                token = int(case.split.tokens[base + at])
                target = int(case.split.tokens[base + at + 1]) if at + 1 < stop else -1
                assert target != case.vocabulary.specials.bos
                row.append((token, target, int(kinds[token]), number))
        assert len(row) == length
        rows.append(row)
    columns = (batch.tokens, batch.targets, batch.modality, batch.document)
    for i, (column, dtype) in enumerate(zip(columns, (torch.int64, torch.int64, torch.uint8, torch.int32), strict=True)):
        assert column.dtype == dtype
        assert column.tolist() == [[cell[i] for cell in row] for row in rows]
    assert batch.position.dtype == torch.int32
    assert batch.position.tolist() == [list(range(length))] * len(sequences)
    assert batch.sequence.tolist() == sequences
    flat = [cell[2] for row in rows for cell in row]
    assert batch.order.tolist() == sorted(range(len(flat)), key=lambda t: (flat[t], t))
    assert batch.budget == case.budget


@given(cases(), st.lists(st.integers(0, 60), min_size=1, max_size=5), st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_given_tokens_are_no_targets(case: Case, sequences: list[int], share: float) -> None:
    marks = np.random.default_rng(0).random(len(case.split.tokens)) < share
    spans = np.flatnonzero(np.diff(marks, prepend=False, append=False)).reshape(-1, 2)
    plan, split = PackPlan(*case.plan_arguments), replace(case.split, given=spans)
    whole = Loader(split, case.vocabulary, plan, case.budget).batch(sequences)
    answers = Loader(split, case.vocabulary, plan, case.budget, answers_only=True).batch(sequences)
    for i, sequence in enumerate(sequences):
        expected, at = whole.targets[i].tolist(), 0
        for document, start, stop in plan.pieces(sequence):
            base = int(split.offsets[document])
            for place in range(start, stop):
                if place + 1 < stop and marks[base + place + 1]:
                    expected[at] = -1
                at += 1
        assert answers.targets[i].tolist() == expected
    assert same(replace(answers, targets=whole.targets), whole)


def test_answers_need_prompts(starter: tuple[Split, Vocabulary]) -> None:
    split, vocabulary = starter
    plan = PackPlan(split, (128, 128), EVEN, 0, 64)
    with pytest.raises(UserError, match=r"^objective\.answers_only=true: this corpus marks nothing as given, .*; set it to"):
        Loader(split, vocabulary, plan, (128, 128), answers_only=True)
    held_out = replace(split, given=np.zeros((0, 2), np.int64))  # the training split has some
    assert (Loader(held_out, vocabulary, plan, (128, 128), answers_only=True).batch([0]).targets >= 0).any()


def test_pad_is_never_a_target(starter: tuple[Split, Vocabulary]) -> None:
    split, vocabulary = starter
    tokens = split.tokens.copy()
    text = tokens >= vocabulary.modality("text").first
    tokens[text & (np.arange(len(tokens)) % 3 == 0)] = vocabulary.specials.pad
    batch = loader((replace(split, tokens=tokens), vocabulary)).batch(range(16))
    assert (batch.tokens == vocabulary.specials.pad).any()
    assert not (batch.targets == vocabulary.specials.pad).any()


def hurt(starter: tuple[Split, Vocabulary], sequence: int, place: int, value: int) -> tuple[Loader, int, int]:
    """A loader whose corpus has another id at a place of a sequence: also its token in the corpus, and its document."""
    split, vocabulary = starter
    tokens = split.tokens.copy()
    before = 0
    for piece in PackPlan(split, (128, 128), EVEN, 0, 64).pieces(sequence):
        if before + piece.stop - piece.start > place:
            break
        before += piece.stop - piece.start
    at = int(split.offsets[piece.document]) + piece.start + place - before
    tokens[at] = value
    return loader((replace(split, tokens=tokens), vocabulary)), at, piece.document


@pytest.mark.parametrize("place", [0, 1, 100, 255])
def test_an_id_beyond_the_vocabulary_names_its_file_document_and_source(starter: tuple[Split, Vocabulary], place: int) -> None:
    subject, at, document = hurt(starter, 5, place, 12_288)
    source = "pictures" if document < 300 else "glosses"
    with pytest.raises(UserError) as error:
        subject.batch([3, 5])
    assert str(error.value) == (
        f"data.path=toy: train/tokens.bin holds id 12288 at token {at} (document {document}, of source {source}), not below "
        "the vocabulary's 12288; the file is damaged: restore it, or delete the corpus and run python -m momafuse.prepare again"
    )
    assert subject.batch([3]).tokens.shape == (1, 256)  # the others are as they were


def test_an_id_of_another_modality_names_its_file_document_and_source(starter: tuple[Split, Vocabulary]) -> None:
    vocabulary = starter[1]
    modality = loader(starter).batch([5]).modality[0]
    for m, (is_now, was) in enumerate((("image", "text"), ("text", "image"))):
        other = vocabulary.modality(is_now).first
        subject, at, document = hurt(starter, 5, int((modality == m).nonzero()[3]), other)
        message = (
            rf"holds id {other} at token {at} \(document {document}, .*of {is_now}, where its document has {was}; the file"
        )
        with pytest.raises(UserError, match=message):
            subject.batch([4, 5])


def test_totals_that_are_wrong_name_the_documents(starter: tuple[Split, Vocabulary]) -> None:
    split, vocabulary = starter
    items = split.items.copy()
    items[:, 1] = 0  # no item holds a code, and no token is one
    text = np.full_like(split.tokens, vocabulary.modality("text").first)
    with pytest.raises(UserError, match=r"train/tokens\.bin does not hold what the totals .* \(document \d+, of source "):
        loader((replace(split, tokens=text, items=items), vocabulary)).batch([0])


def test_the_budget_is_the_plans(starter: tuple[Split, Vocabulary]) -> None:
    split, vocabulary = starter
    with pytest.raises(ValueError, match="the plan was made for"):
        Loader(split, vocabulary, PackPlan(split, (128, 128), EVEN, 0, 64), (192, 64))


@settings(max_examples=20)
@given(world=st.sampled_from([1, 2, 4]), micro=st.sampled_from([1, 2, 4]), step=st.integers(0, 40))
def test_any_layout_sees_the_same_global_sequences(
    starter: tuple[Split, Vocabulary], world: int, micro: int, step: int
) -> None:
    whole = loader(starter).batch(range(step * 16, (step + 1) * 16))
    ranks = [
        next(loader(starter).stream(step, global_batch=16, micro_batch=micro, rank=rank, world=world)) for rank in range(world)
    ]
    assert all(len(batches) == 16 // world // micro for batches in ranks)
    for name in ROWS:
        assert torch.equal(torch.cat([getattr(b, name) for batches in ranks for b in batches]), getattr(whole, name))


@pytest.mark.parametrize("threads", range(5))
@pytest.mark.parametrize("world", [1, 2, 4])
def test_threads_that_ask_at_once_get_the_same_bytes(starter: tuple[Split, Vocabulary], world: int, threads: int) -> None:
    """Each rank one loader, all of whose batches some threads ask for at once, in an order of their own, from any step on."""
    alone = loader(starter)
    whole = {n: rows(alone.batch([n])) for n in range(320)}  # of four epochs, more windows than are kept
    for start in (0, 4, 17):
        found: dict[int, bytes] = {}
        for rank in range(world):
            subject, share = loader(starter), 16 // world
            slices = [range(s * 16 + rank * share, s * 16 + (rank + 1) * share) for s in range(start, 20)]
            np.random.default_rng(threads).shuffle(slices)
            for batch in asked_at_once(subject, slices, threads):
                found |= {int(n): rows(batch, i) for i, n in enumerate(batch.sequence)}
        assert found == {n: whole[n] for n in range(start * 16, 320)}


def rows(batch: Batch, row: int = 0) -> bytes:
    """All that a batch holds of one of its sequences."""
    return b"".join(getattr(batch, name)[row].numpy().tobytes() for name in ROWS)


def asked_at_once(subject: Loader, slices: list[range], threads: int) -> list[Batch]:
    if not threads:
        return [subject.batch(s) for s in slices]
    begin, interval = threading.Barrier(threads), sys.getswitchinterval()
    made: list[list[Batch]] = [[] for _ in range(threads)]

    def work(number: int) -> None:
        begin.wait()
        made[number] = [subject.batch(s) for s in slices[number::threads]]

    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    return [batch for batches in made for batch in batches]


def test_for_a_gpu_every_tensor_is_pinned_and_otherwise_the_same(starter, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self.clone()) or pinned[-1])
    batches = next(loader(starter).stream(3, global_batch=8, micro_batch=4, pinned=True))
    moved = [t for batch in batches for t in vars(batch).values() if isinstance(t, torch.Tensor)]
    assert len(moved) == 2 * 8
    assert {id(t) for t in moved} <= {id(t) for t in pinned}
    assert all(same(a, b) for a, b in zip(batches, next(loader(starter).stream(3, global_batch=8, micro_batch=4)), strict=True))


def test_a_resumed_stream_is_the_stream(starter: tuple[Split, Vocabulary]) -> None:
    whole = list(islice(loader(starter).stream(0, global_batch=8, micro_batch=4), 60))  # over three epochs
    for step in (1, 7, 18, 19, 37, 59):
        resumed = list(islice(loader(starter).stream(step, global_batch=8, micro_batch=4), 60 - step))
        for a, b in zip(whole[step:], resumed, strict=True):
            assert all(same(x, y) for x, y in zip(a, b, strict=True))
    assert not same(whole[0][0], next(loader(starter, seed=1).stream(0, global_batch=8, micro_batch=4))[0])


@pytest.mark.parametrize(("world", "micro"), [(3, 1), (2, 3), (1, 16)])
def test_layouts_that_do_not_divide_are_refused(starter: tuple[Split, Vocabulary], world: int, micro: int) -> None:
    with pytest.raises(ValueError, match=rf"global_batch=8 is no multiple of {world} x {micro}$"):
        loader(starter).stream(0, global_batch=8, micro_batch=micro, world=world)


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "momafuse-loader"]


def test_the_background_thread_ends_with_its_stream(starter: tuple[Split, Vocabulary]) -> None:
    stream = loader(starter).stream(0, global_batch=8, micro_batch=4)
    assert not workers()  # nothing runs before the first step is asked for
    next(stream)
    assert len(workers()) == 1
    stream.close()  # type: ignore[attr-defined]
    assert not workers()
    stream = loader(starter).stream(0, global_batch=8, micro_batch=4)
    next(stream)
    del stream
    assert not workers()


def test_errors_of_the_background_thread_come_out(starter: tuple[Split, Vocabulary], monkeypatch: pytest.MonkeyPatch) -> None:
    subject, plain = loader(starter), Loader.batch

    def fail(self: Loader, sequences: range) -> Batch:
        if sequences[0] >= 16:
            raise RuntimeError("the disk is gone")
        return plain(self, sequences)

    monkeypatch.setattr(Loader, "batch", fail)
    stream = subject.stream(0, global_batch=8, micro_batch=8)
    assert [b[0].sequence[0] for b in islice(stream, 2)] == [0, 8]  # what came before is delivered
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(stream)
    assert not workers()


def test_the_background_thread_works_ahead_but_not_far(
    starter: tuple[Split, Vocabulary], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    plain = Loader.batch
    monkeypatch.setattr(Loader, "batch", lambda self, s: (made.append(s[0]), plain(self, s))[1])
    stream = loader(starter).stream(0, global_batch=8, micro_batch=8)
    next(stream)
    for _ in range(200):
        if len(made) >= 5:
            break
        time.sleep(0.01)
    time.sleep(0.2)
    assert 5 <= len(made) <= 6  # four in the queue, one delivered, one in hand
    stream.close()  # type: ignore[attr-defined]
