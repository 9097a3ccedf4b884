from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.data.packing import PackPlan, Piece
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary
from tests.data.toy import INTERLEAVED, PAIR, Case, Segments, cases, make_split, starter_like

EVEN = {"pictures": 1.0, "glosses": 1.0}


def epoch(plan: PackPlan, number: int = 0) -> list[list[Piece]]:
    n = plan.sequences_per_epoch
    return [plan.pieces(s) for s in range(number * n, (number + 1) * n)]


def sources_of(case: Case, pictures: bool) -> set[int]:
    chosen = [s for s in case.split.sources if (not s.plain) == pictures]
    return {d for s in chosen for d in range(s.first, s.first + s.documents)}


def length(case: Case, document: int) -> int:
    return int(case.split.offsets[document + 1] - case.split.offsets[document])


@given(cases())
def test_every_sequence_holds_the_budget_exactly_and_pictures_whole(case: Case) -> None:
    plan = PackPlan(*case.plan_arguments)
    modality = case.vocabulary.modality_of_ids()
    for sequence in epoch(plan) + epoch(plan, 1)[:20]:
        counts = Counter[int]()
        for document, start, stop in sequence:
            assert 0 <= start < stop <= length(case, document)
            base = int(case.split.offsets[document])
            for token in case.split.tokens[base + start : base + stop]:
                counts[int(modality[token])] += 1
            for first, codes in case.split.items[case.split.item_index[document] : case.split.item_index[document + 1]]:
                inside = sum(base + start <= t < base + stop for t in range(first - 1, first + codes + 1))
                assert inside in (0, codes + 2)  # with begin_image and end_image
        assert (counts[0], counts[1]) == case.budget


@given(cases(sources=1), st.integers(0, 3))
def test_no_picture_document_twice_in_an_epoch_and_at_most_a_sequence_of_pictures_left(case: Case, number: int) -> None:
    plan = PackPlan(*case.plan_arguments)
    modality = case.vocabulary.modality_of_ids()
    seen = Counter[tuple[int, int]]()
    for sequence in epoch(plan, number):
        for document, start, stop in sequence:
            if document in sources_of(case, pictures=True):
                seen.update((document, t) for t in range(start, stop))
    source = case.split.sources[0]
    if source.items[1] * case.vocabulary.modality("image").block < case.budget[1]:
        return  # fewer pictures than a sequence needs: they have to come again
    assert max(seen.values()) == 1
    tokens = [int(case.split.tokens[case.split.offsets[d] + t]) for d, t in seen]
    left = source.tokens[1] - sum(modality[t] == 1 for t in tokens)
    assert 0 <= left < case.budget[1]


@given(cases())
def test_pairs_stay_in_one_sequence_whole_where_they_fit(case: Case) -> None:
    plan = PackPlan(*case.plan_arguments)
    block = case.vocabulary.modality("image").block
    for sequence in epoch(plan):
        rows = Counter(piece.document for piece in sequence)
        for piece in sequence:
            if case.split.kinds[piece.document] == PAIR and rows[piece.document] == 1:
                base = int(case.split.offsets[piece.document])
                first = int(case.split.items[case.split.item_index[piece.document], 0]) - base
                assert piece.start < first
                assert piece.stop > first + block  # the picture is there: no part of a pair stands alone
                whole = piece.stop - piece.start == length(case, piece.document)
                bare = piece.stop - piece.start == block + 2  # not even room for its bos and eos
                assert whole or bare or piece.start == 0 or piece.stop == length(case, piece.document)
                room = case.budget[0] if case.budget[1] == block else 0
                assert whole or length(case, piece.document) - block > room  # alone in a sequence: cut only if it must


@given(cases(interleaved=False, sources=1))
def test_text_goes_on_in_the_next_sequence_where_it_was_cut(case: Case) -> None:
    """Over windows, epochs and passes; with short captions no text sits out, so nothing is read twice either."""
    plan = PackPlan(*case.plan_arguments)
    block, pairs = case.vocabulary.modality("image").block, sources_of(case, pictures=True)
    n = case.budget[1] // block
    longest = max(length(case, d) - block for d in pairs)
    if longest * n > case.budget[0] or len(pairs) % n:
        return
    text = sources_of(case, pictures=False)
    sequences = [s for s in epoch(plan) + epoch(plan, 1) if any(p.document in text for p in s)]  # the others have no room
    if not sequences:
        return
    ends = [
        Counter((p.document, p.stop) for p in s if p.document in text and p.stop < length(case, p.document)) for s in sequences
    ]
    starts = [Counter((p.document, p.start) for p in s if p.document in text and p.start > 0) for s in sequences]
    assert not starts[0]
    for a, b in zip(ends, starts[1:], strict=False):
        assert sum(a.values()) <= 1  # one document is cut by a sequence's end
        assert a == b
    read = Counter((p.document, t) for s in sequences for p in s if p.document in text for t in range(p.start, p.stop))
    times = [read[d, t] for d in text for t in range(length(case, d))]
    assert max(times) - min(times) <= 1  # all text is read before any is read again


@given(cases(sources=1))
def test_an_interleaved_document_comes_in_order_and_what_sits_out_is_text(case: Case) -> None:
    plan = PackPlan(*case.plan_arguments)
    places: dict[int, list[tuple[int, int, int]]] = {}
    for number, sequence in enumerate(epoch(plan)):
        for place, piece in enumerate(sequence):
            if case.split.kinds[piece.document] == INTERLEAVED:
                places.setdefault(piece.document, []).append((number, place, piece.start))
    if case.split.sources[0].items[1] * case.vocabulary.modality("image").block < case.budget[1]:
        return
    windows = plan.find(plan.sequences_per_epoch - 1)[1]
    for rows in places.values():
        if windows == 0:  # one window: the order over sequences is the document's
            assert [start for _, _, start in rows] == sorted(start for _, _, start in rows)
        for (s, _, a), (t, _, b) in pairwise(rows):
            assert s != t or a < b  # the pieces in a sequence stand in order


@settings(max_examples=30)
@given(cases(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_fresh_plans_agree_in_any_order_of_access(case: Case, random: object, epochs: int) -> None:
    first, second = PackPlan(*case.plan_arguments), PackPlan(*case.plan_arguments)
    numbers = list(range(0, first.sequences_per_epoch * epochs, 3))
    expected = {s: first.pieces(s) for s in numbers}
    random.shuffle(numbers)  # type: ignore[attr-defined]
    for s in numbers:
        assert second.pieces(s) == expected[s]
        assert PackPlan(*case.plan_arguments).pieces(s) == expected[s]


def test_seed_fingerprint_budget_and_epoch_change_the_order() -> None:
    split, _ = starter_like(200, 1000)
    plan = PackPlan(split, (128, 128), EVEN, 0, 64)
    others = [
        PackPlan(split, (128, 128), EVEN, 1, 64),
        PackPlan(replace(split, fingerprint="other"), (128, 128), EVEN, 0, 64),
        PackPlan(split, (129, 128), EVEN, 0, 64),
    ]
    assert all(other.pieces(0) != plan.pieces(0) for other in others)
    assert epoch(plan, 0)[0] != epoch(plan, 1)[0]


def test_a_window_is_planned_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    split, _ = starter_like(2000, 8000)
    planned: list[tuple[int, int]] = []
    plain = PackPlan._plan
    monkeypatch.setattr(PackPlan, "_plan", lambda self, e, n: (planned.append((e, n)), plain(self, e, n))[1])
    plan = PackPlan(split, (128, 128), EVEN, 0, 64)
    assert planned == []
    far = plan.pieces(10**12)
    assert planned == [plan.find(10**12)[:2]]
    assert sum(p.stop - p.start for p in far) == 256


def test_the_starter_corpus_loses_next_to_nothing() -> None:
    """Share of caption and picture tokens that sit out of an epoch, and of glosses read twice before all are read."""
    split, _ = starter_like(1220, 4000)
    plan = PackPlan(split, (128, 128), EVEN, 0, 512)
    used, total = np.zeros(len(split.tokens), dtype=np.int64), int(split.offsets[1220])
    for number in range(2):
        before = used.copy()
        for sequence in epoch(plan, number):
            for document, start, stop in sequence:
                base = split.offsets[document]
                used[base + start : base + stop] += 1
        fresh = (used - before)[:total]
        assert fresh.max() == 1
        assert (fresh == 0).mean() < 0.01
    glosses = used[total:]
    passes = glosses.sum() / len(glosses)
    assert (glosses > 0).mean() > min(passes, 1.0) - 0.01  # the second epoch goes on, it does not begin again


def test_pieces_stand_in_random_order() -> None:
    split, _ = starter_like(400, 2000)
    first = [bool(split.kinds[sequence[0].document] == PAIR) for sequence in epoch(PackPlan(split, (128, 128), EVEN, 0, 64))]
    assert 0.1 < np.mean(first) < 0.9  # neither pictures nor text always come first


def test_shares_follow_the_weights() -> None:
    vocabulary = Vocabulary.build(20, image=(9, 4))
    pair: Segments = ["image", 3]
    sources = {"a": [pair] * 300, "b": [pair] * 900, "plain": [[9]] * 400, "prose": [[90]] * 400, "off": [pair] * 10}
    split = make_split(sources, vocabulary)
    weights = {"a": 1.0, "b": 1.0, "plain": 3.0, "prose": 1.0, "off": 0.0}
    plan = PackPlan(split, (40, 8), weights, 0, 64)
    shares = {s.source: s for s in plan.shares()}
    assert set(shares) == {"a", "b", "plain", "prose"}
    assert [(shares[n].of, shares[n].requested) for n in sources if n != "off"] == [
        ("image", 0.5), ("image", 0.5), ("text", 0.75), ("text", 0.25)
    ]  # fmt: skip
    assert plan.sequences_per_epoch == 300  # source a ends first: 600 pictures, two a sequence
    assert (shares["a"].passes, shares["b"].passes) == (1.0, pytest.approx(1 / 3, abs=0.01))
    tokens = Counter[str]()
    seen: set[int] = set()
    for number in range(3):
        for piece in (p for sequence in epoch(plan, number) for p in sequence):
            name = next(s.name for s in split.sources if s.first <= piece.document < s.first + s.documents)
            tokens[name] += piece.stop - piece.start
            seen.add(piece.document)
    assert tokens["a"] == pytest.approx(tokens["b"], rel=0.01)
    fill = tokens["plain"] + tokens["prose"]
    assert tokens["plain"] / fill == pytest.approx(shares["plain"].realised, abs=0.01)
    assert shares["plain"].realised == pytest.approx(0.75, abs=0.001)
    assert shares["prose"].passes == pytest.approx(tokens["prose"] / 3 / (92 * 400), rel=0.02)
    assert sum(d in seen for d in range(300, 1200)) == 900  # b went on where it was: three epochs see all of it
    assert "a: 50.00% of the image budget (asked 50.00%), 1.00 passes an epoch" in {str(s) for s in plan.shares()}


def test_text_only_plans_need_no_picture() -> None:
    vocabulary = Vocabulary.build(20, image=(9, 4))
    split = make_split({"pictures": [["image", 3]] * 5, "text": [[n] for n in range(1, 40)]}, vocabulary)
    plan = PackPlan(split, (16, 0), {"pictures": 1.0, "text": 1.0}, 0, 8)
    assert plan.sequences_per_epoch == int(split.sources[1].tokens[0]) // 16
    line = [t for s in epoch(plan) for p in s for t in [(p.document, p.start, p.stop)]]
    assert all(d >= 5 for d, _, _ in line)
    assert all(sum(p.stop - p.start for p in s) == 16 for s in epoch(plan, 3))


def test_pictures_alone_where_their_text_is_the_budget() -> None:
    split = make_split({"pictures": [["image", 3]] * 10}, Vocabulary.build(20, image=(9, 4)))
    plan = PackPlan(split, (14, 8), {"pictures": 1.0}, 0, 4)  # 3 + 4 specials a picture
    assert [len(s) for s in epoch(plan)] == [2] * 5
    uneven = make_split({"pictures": [["image", 2], ["image", 4]] * 5}, Vocabulary.build(20, image=(9, 4)))
    plan = PackPlan(uneven, (14, 8), {"pictures": 1.0}, 0, 4)
    with pytest.raises(UserError, match="no text to fill with"):
        epoch(plan)


@pytest.mark.parametrize(
    ("sources", "budget", "weights", "message"),
    [
        ({"t": [[5]]}, (8, 8), {"t": 1.0}, "no source with a weight above 0 has image items; the nearest valid share is 0"),
        ({"p": [["image", 5]], "t": [[5]]}, (8, 8), {"p": 0.0, "t": 1.0}, "no source with a weight above 0 has image items"),
        ({"p": [["image", 5]], "t": [[5]]}, (40, 8), {"p": 1.0, "t": 0.0}, "no text to fill with"),
        ({"p": [["image", 5]], "t": [[5]]}, (40, 0), {"p": 1.0, "t": 0.0}, "no text to fill with"),
        ({"p": [["image", 5]], "t": [[5]]}, (40, 6), {"p": 1.0, "t": 1.0}, "an item has 4; choose a multiple"),
        ({"p": [["image", 50]], "t": [[5]]}, (40, 8), {"p": 1.0, "t": 1.0}, "largest valid share for this corpus is 0"),
        ({"p": [["image", 5]], "t": [[5]]}, (40, 8), {"p": 1.0}, "t is in the corpus but has no weight"),
    ],
)
def test_impossible_plans_are_refused(
    sources: dict[str, list[Segments]], budget: tuple[int, int], weights: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        PackPlan(make_split(sources, Vocabulary.build(20, image=(9, 4))), budget, weights, 0, 8)


def test_captions_longer_than_a_sequence_are_cut() -> None:
    documents: list[Segments] = [["image", 4]] * 30 + [[200, "image"], ["image", 200]] + [[4, "image"]] * 30
    split = make_split({"pictures": documents, "text": [[5]] * 50}, Vocabulary.build(20, image=(9, 4)))
    plan = PackPlan(split, (40, 8), {"pictures": 1.0, "text": 1.0}, 0, 16)
    pieces = {p.document: p for s in epoch(plan) for p in s if p.document < 62}
    assert len(pieces) == 62
    first, last = pieces[30], pieces[31]  # caption first: its end stays; picture first: its beginning stays
    assert (first.start > 0, first.stop) == (True, 208)
    assert (last.start, last.stop < 208) == (0, True)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_tight_budget_of_interleaved_documents_is_still_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    documents: list[Segments] = []
    for _ in range(60):
        parts = rng.integers(1, 5)
        documents.append([x for _ in range(parts) for x in (int(rng.geometric(1 / 20)), "image")] + [int(rng.integers(1, 60))])
    split = make_split({"articles": documents, "text": [[30]] * 40}, Vocabulary.build(20, image=(9, 4)))
    rate = split.sources[0].tokens[0] / split.sources[0].items[1]
    case = Case(
        split, Vocabulary.build(20, image=(9, 4)), (int(np.ceil(2 * rate)), 8), {"articles": 1.0, "text": 1.0}, 32, seed
    )
    for sequence in epoch(PackPlan(*case.plan_arguments)):
        assert sum(p.stop - p.start for p in sequence) == sum(case.budget)
