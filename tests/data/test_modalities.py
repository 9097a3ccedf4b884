"""Plans and batches of one to five modalities, judged token by token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.data.loader import Loader
from momafuse.data.packing import PackPlan
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary
from tests.data.toy import Case, Segments, make_split, many


def tokens(case: Case, plan: PackPlan, sequences: range) -> Iterator[list[tuple[int, int]]]:
    """Of every sequence: document and place of each token."""
    for number in sequences:
        yield [(p.document, t) for p in plan.pieces(number) for t in range(p.start, p.stop)]


@settings(max_examples=150)
@given(many())
def test_every_sequence_holds_every_budget_and_items_of_fixed_length_whole(case: Case) -> None:
    plan, split = PackPlan(*case.plan_arguments), case.split
    modality, modalities = case.vocabulary.modality_of_ids(), case.vocabulary.modalities
    for sequence in tokens(case, plan, range(min(2 * plan.sequences_per_epoch, 60))):
        held = Counter(sequence)  # in a corpus that is less than a sequence, the same comes again
        counts = Counter(int(modality[split.tokens[split.offsets[d] + t]]) for d, t in sequence)
        assert tuple(counts[m] for m in range(len(modalities))) == case.budget
        for document in {d for d, _ in sequence}:
            for (first, codes), m in zip(*split.items_of(document), strict=True):
                if modalities[m].block:
                    times = {held[document, t] for t in range(first - 1, first + codes + 1)}
                    assert len(times) == 1  # with its frame


@settings(max_examples=150)
@given(many())
def test_the_first_line_is_seen_once_in_an_epoch(case: Case) -> None:
    plan, split = PackPlan(*case.plan_arguments), case.split
    line = next(iter(plan.lines))
    if line.modality == 0:
        return
    names = {tape.name for tape in line.mixture.tapes}
    mine = {d for s in split.sources if s.name in names for d in range(s.first, s.first + s.documents)}
    held = {s.name: s.tokens[line.modality] for s in split.sources}
    if any(held[name] < case.budget[line.modality] for name in names):
        return  # less than a sequence needs: it has to come again
    modality, seen = case.vocabulary.modality_of_ids(), Counter[tuple[int, int]]()
    for sequence in tokens(case, plan, range(plan.sequences_per_epoch)):
        seen.update(x for x in sequence if x[0] in mine)
    assert max(seen.values()) == 1
    if len(names) == 1:
        read = sum(int(modality[split.tokens[split.offsets[d] + t]]) == line.modality for d, t in seen)
        assert 0 <= sum(held[name] for name in names) - read < case.budget[line.modality]


def test_lines_behind_the_first_miss_nothing_and_are_read_evenly() -> None:
    """Where nothing has to sit out: over some epochs, every token of every line comes once before any comes twice."""
    v = Vocabulary.build(20, a=(9, 4), b=(5, 2), c=(7, 0))
    documents: dict[str, list[Segments]] = {
        "a": [["a", 2], [2, "a"]] * 20,
        "b": [["b", 1]] * 30,
        "c": [[("c", n), 1] for n in (3, 8, 5, 2)] * 7,
        "text": [[5]] * 30,
    }
    split = make_split(documents, v)
    case = Case(split, v, (64, 8, 6, 9), dict.fromkeys(documents, 1.0), 8, 0)
    plan, modality = PackPlan(*case.plan_arguments), v.modality_of_ids()
    numbers = [0, 0, 0, 0]
    read = [Counter[tuple[int, int]]() for _ in v.names]
    for sequence in tokens(case, plan, range(7 * plan.sequences_per_epoch)):
        for d, t in sequence:
            m = int(modality[split.tokens[split.offsets[d] + t]])
            numbers[m] += 1
            if m or split.kinds[d] == 2:
                read[m][d, t] += 1
    assert numbers == [n * 7 * plan.sequences_per_epoch for n in case.budget]
    for m, name in enumerate(v.names):
        held = sum(s.tokens[m] for s in split.sources if m or s.plain)
        assert len(read[m]) == held, name
        assert max(read[m].values()) - min(read[m].values()) <= 1, name


@settings(max_examples=60)
@given(many(), st.randoms(use_true_random=False))
def test_fresh_plans_agree_in_any_order(case: Case, random: object) -> None:
    first, second = PackPlan(*case.plan_arguments), PackPlan(*case.plan_arguments)
    numbers = list(range(min(first.sequences_per_epoch + 3, 40)))
    expected = {n: first.pieces(n) for n in numbers}
    random.shuffle(numbers)  # type: ignore[attr-defined]
    assert {n: second.pieces(n) for n in numbers} == expected


@settings(max_examples=40)
@given(many(), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_ranks_and_resumed_runs_see_the_same(case: Case, ranks: int, start: int) -> None:
    """Each rank its stretch of every batch, from any step on: together the same rows as one rank from the first."""

    def batch(first: int, count: int) -> list[list[int]]:
        plan = PackPlan(*case.plan_arguments)
        loader = Loader(case.split, case.vocabulary, plan, case.budget)
        made = loader.batch(list(range(first, first + count)))
        assert made.budget == case.budget
        order = case.vocabulary.modality_of_ids()[made.tokens.numpy()]
        assert (order == made.modality.numpy()).all()
        return made.tokens.tolist()

    whole = batch(0, 4 * (start + 1))[4 * start :]
    share = 4 // ranks
    assert [row for rank in range(ranks) for row in batch(4 * start + rank * share, share)] == whole


@pytest.mark.parametrize(
    ("budget", "weights", "message"),
    [
        ((20, 4, 0), {}, None),
        (
            (20, 4, 5),
            {"speech": 0.0},
            r"data\.share\.s=.*: no source .* has s items to fill with, but for those with other ones",
        ),
        (
            (20, 4, 2),
            {},
            r"data\.share\.s=.*: documents of other lines bring 3\.0 tokens of 2 on average; raise it to at least",
        ),
        ((20, 0, 5), {}, None),
        ((8, 4, 9), {}, r"data\.share\.a=.*: 4 tokens bring 7\.0 of text"),
    ],
)
def test_budgets_that_sources_can_and_cannot_meet(
    budget: tuple[int, ...], weights: dict[str, float], message: str | None
) -> None:
    v = Vocabulary.build(20, a=(9, 4), s=(5, 0))
    documents: dict[str, list[Segments]] = {
        "triples": [["a", ("s", 3), 1]] * 9,
        "a": [["a", 1]] * 9,
        "speech": [[("s", 4), 2]] * 9,
        "text": [[6]] * 9,
    }
    split = make_split(documents, v)
    given = dict.fromkeys(documents, 1.0) | {"a": 0.0 if budget[2] else 1.0} | weights
    if message is None:
        plan = PackPlan(split, budget, given, 0, 4)
        assert {s.source for s in plan.shares()} == {"text"} | ({"a"} if budget[1] else {"speech"})
    else:
        with pytest.raises(UserError, match=message):
            PackPlan(split, budget, given, 0, 4)


def test_a_row_of_tokens_is_what_the_plan_says() -> None:
    v = Vocabulary.build(20, a=(9, 4), s=(5, 0))
    split = make_split({"x": [["a", ("s", 3), 1]] * 9, "s": [[("s", 5)]] * 9, "text": [[6]] * 9}, v)
    plan = PackPlan(split, (30, 4, 9), {"x": 1.0, "s": 1.0, "text": 1.0}, 0, 4)
    loader = Loader(split, v, plan, (30, 4, 9))
    for n in range(12):
        ids = np.concatenate([split.tokens[split.offsets[p.document] :][p.start : p.stop] for p in plan.pieces(n)])
        assert loader.batch([n]).tokens[0].tolist() == ids.tolist()
