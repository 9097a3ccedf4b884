"""Stages of a mixture: the plan stays exact and a pure function, and every tape goes on where it stood."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from momafuse.data.loader import Loader
from momafuse.data.packing import PackPlan
from momafuse.data.stages import StagedPlan
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary
from tests.data.toy import Case, Segments, cases, make_split, many, starter_like

V = Vocabulary.build(20, image=(9, 4))


@dataclass(frozen=True)
class Staged:
    case: Case
    weights: list[dict[str, float]]
    begins: list[int]
    sequences: int  # how many are looked at

    def plan(self) -> StagedPlan:
        c = self.case
        return StagedPlan(c.split, c.budget, self.weights, self.begins, c.seed, c.window)

    def ended(self) -> StagedPlan:
        """The same, but its last stage ends with what is looked at, and so does its last window."""
        c = self.case
        begins = [*self.begins, self.sequences]
        return StagedPlan(c.split, c.budget, [*self.weights, self.weights[-1]], begins, c.seed, c.window)


@st.composite
def staged(draw: st.DrawFn, of: st.SearchStrategy[Case]) -> Staged:
    """Up to four stages of random weights, the first within one epoch; a source may be out of a stage, but not all that fill
    the same modality."""
    case = draw(of)
    choice = st.sampled_from([0.0, 0.2, 1.0, 3.0])
    weights = [case.weights]
    for _ in range(draw(st.integers(1, 3))):
        own = {name: draw(choice) for name in case.weights}
        kept = {next(n for n in own if n.rstrip("0123456789") == kind) for kind in {n.rstrip("0123456789") for n in own}}
        weights.append(own | {name: own[name] or 1.0 for name in kept})
    first = PackPlan(*case.plan_arguments).sequences_per_epoch
    assume(first > 1)
    begins = [draw(st.integers(1, first - 1))]
    for _ in weights[1:]:
        begins.append(begins[-1] + draw(st.integers(1, 25)))
    return Staged(case, weights, begins[:-1], begins[-1])


def read(plan: StagedPlan, sequences: range) -> Counter[tuple[int, int]]:
    """How often each token of each document is read."""
    pieces = (piece for s in sequences for piece in plan.pieces(s))
    return Counter((d, t) for d, start, stop in pieces for t in range(start, stop))


def length(case: Case, document: int) -> int:
    return int(case.split.offsets[document + 1] - case.split.offsets[document])


@given(staged(st.one_of(cases(), many())))
def test_every_sequence_of_every_stage_holds_the_budget_exactly(subject: Staged) -> None:
    plan, split, kinds = subject.plan(), subject.case.split, subject.case.split.vocabulary.modality_of_ids()
    loader = Loader(split, split.vocabulary, plan, subject.case.budget)
    for sequence in range(subject.sequences + 3):
        ids = [int(i) for d, a, b in plan.pieces(sequence) for i in split.tokens[split.offsets[d] + a : split.offsets[d] + b]]
        counts = Counter(int(kinds[i]) for i in ids)
        assert tuple(counts[m] for m in range(len(subject.case.budget))) == subject.case.budget
        assert loader.batch([sequence]).tokens[0].tolist() == ids


@settings(max_examples=30)
@given(staged(cases()), st.randoms(use_true_random=False))
def test_fresh_plans_agree_in_any_order_of_access(subject: Staged, random: object) -> None:
    first, second, numbers = subject.plan(), subject.plan(), list(range(0, subject.sequences + 5, 2))
    expected = {s: first.pieces(s) for s in numbers}
    random.shuffle(numbers)  # type: ignore[attr-defined]
    for s in numbers:
        assert second.pieces(s) == expected[s]
        assert subject.plan().pieces(s) == expected[s]


@given(staged(cases()))
def test_every_item_of_a_source_is_taken_as_often_as_its_tape_says(subject: Staged) -> None:
    """Over all stages: none is taken again before the pass is through, and none is left out at a seam."""
    case, plan = subject.case, subject.ended()
    taken = read(plan, range(subject.sequences))
    uses = [use for stage in plan.uses(subject.sequences) for use in stage if use.of == "image"]
    for source in (s for s in case.split.sources if not s.plain):
        documents = range(source.first, source.first + source.documents)
        firsts = [(d, first) for d in documents for first, _ in case.split.items_of(d)[0].tolist()]
        times = [taken[item] for item in firsts]
        assert max(times) - min(times) <= 1
        passes = sum(use.passes for use in uses if use.source == source.name)
        assert sum(times) == pytest.approx(passes * len(firsts))
    endless = subject.plan()
    for sequence in range(subject.begins[-1]):  # what comes after a stage does not change it
        assert endless.pieces(sequence) == plan.pieces(sequence)


@given(staged(cases(interleaved=False)))
def test_text_goes_on_over_a_seam(subject: Staged) -> None:
    """With short captions no text sits out: so in every source all is read before any is read again."""
    case = subject.case
    block = case.vocabulary.modality("image").block
    pairs = [d for s in case.split.sources if not s.plain for d in range(s.first, s.first + s.documents)]
    assume(max(length(case, d) - block for d in pairs) * (case.budget[1] // block) <= case.budget[0])
    taken = read(subject.ended(), range(subject.sequences))
    for source in (s for s in case.split.sources if s.plain):
        documents = range(source.first, source.first + source.documents)
        times = [taken[d, t] for d in documents for t in range(length(case, d))]
        assert max(times) - min(times) <= 1


@given(cases(), st.integers(1, 50))
def test_one_stage_is_the_plan_as_it_was(case: Case, sequences: int) -> None:
    plan, alone = (
        PackPlan(*case.plan_arguments),
        StagedPlan(case.split, case.budget, [case.weights], [], case.seed, case.window),
    )
    assert [plan.pieces(s) for s in range(sequences)] == [alone.pieces(s) for s in range(sequences)]
    assert plan.find(sequences) == alone.find(sequences)
    assert plan.shares() == alone.shares()


def pairs_and_texts() -> dict[str, list[Segments]]:
    return {"a": [["image", 3]] * 40, "b": [["image", 3]] * 40, "text": [[9]] * 100, "prose": [[9]] * 100}


def test_a_source_comes_in_goes_out_and_goes_on_where_it_stood() -> None:
    split = make_split(pairs_and_texts(), V)
    base = {"a": 1.0, "b": 0.0, "text": 1.0, "prose": 0.0}
    weights = [base, base | {"a": 0.0, "b": 1.0}, base | {"a": 1.0, "b": 1.0, "prose": 1.0}]
    plan = StagedPlan(split, (40, 8), weights, [10, 15], 0, 16)

    def documents(first: int, last: int) -> Counter[str]:
        pieces = [p for s in range(first, last) for p in plan.pieces(s)]
        return Counter(next(s.name for s in split.sources if s.first <= p.document < s.first + s.documents) for p in pieces)

    assert (documents(0, 10)["a"], documents(0, 10)["b"], documents(0, 10)["prose"]) == (20, 0, 0)
    assert (documents(10, 15)["a"], documents(10, 15)["b"]) == (0, 10)
    assert (documents(15, 31)["a"], documents(15, 31)["b"]) == (16, 16)  # two windows
    assert documents(15, 31)["prose"] > 0
    seen = Counter(p.document for s in range(31) for p in plan.pieces(s) if p.document < 80)
    assert set(seen.values()) == {1}  # a went on behind its first 20, b behind its first 10
    assert sum(d < 40 for d in seen) == 36
    uses = {(stage, use.source): use for stage, several in enumerate(plan.uses(35)) for use in several}
    assert [uses[stage, "a"].passes for stage in (0, 2)] == [0.5, 0.5]
    assert (1, "a") not in uses
    assert uses[2, "b"].requested == uses[2, "b"].realised == 0.5
    assert uses[0, "a"].tokens.tolist() == [20 * 7, 20 * 4]
    assert len(plan.uses(12)) == 2  # a shorter run never reaches the last stage
    assert sum(use.passes for use in plan.uses(12)[1] if use.source == "b") == 0.1


def test_a_sequence_of_the_last_stage_is_found_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    split, _ = starter_like(2000, 8000)
    planned: list[tuple[int, int]] = []
    plain = PackPlan._plan
    monkeypatch.setattr(PackPlan, "_plan", lambda self, e, n: (planned.append((e, n)), plain(self, e, n))[1])
    even, more = {"pictures": 1.0, "glosses": 1.0}, {"pictures": 2.0, "glosses": 1.0}
    plan = StagedPlan(split, (128, 128), [even, more, even], [10**9 + 7, 10**11], 0, 64)
    assert planned == []
    far = plan.pieces(10**12)
    assert planned == [plan.find(10**12)[:2]]
    assert sum(p.stop - p.start for p in far) == 256
    assert plan.find(10**9 + 7)[1:] == (0, 0)  # a stage begins with a window


def test_epochs_are_counted_over_stages_and_seams_hang_on_nothing_but_their_place() -> None:
    split, _ = starter_like(300, 1000)
    even = {"pictures": 1.0, "glosses": 1.0}
    plan = StagedPlan(split, (128, 128), [even, even], [40], 0, 64)
    whole = PackPlan(split, (128, 128), even, 0, 64)
    window = whole.window(0, 0).first.size - 1
    before = 40 // window * window
    assert [plan.pieces(s) for s in range(before)] == [whole.pieces(s) for s in range(before)]  # but for the window that is cut
    assert (plan.find(39)[0], plan.find(40)) == (0, (1, 0, 0))


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"a": 0.0}, r"^data\.stages\[0\]: from there on, data\.image_share=.*no source with a weight above 0 has image items"),
        ({"text": 0.0}, r"^data\.stages\[0\]: from there on, .*no text to fill with"),
    ],
)
def test_a_stage_that_cannot_fill_its_sequences_is_refused(later: dict[str, float], message: str) -> None:
    split = make_split({"a": [["image", 3]] * 9, "text": [[9]] * 9}, V)
    base = {"a": 1.0, "text": 1.0}
    with pytest.raises(UserError, match=message):
        StagedPlan(split, (40, 8), [base, base | later], [3], 0, 8)


@pytest.mark.parametrize("begins", [[0, 4], [5, 5], [6, 4], [5]])
def test_stages_in_no_order_are_a_callers_mistake(begins: list[int]) -> None:
    split = make_split({"a": [["image", 3]] * 9, "text": [[9]] * 9}, V)
    with pytest.raises(ValueError, match="cannot begin"):
        StagedPlan(split, (40, 8), [{"a": 1.0, "text": 1.0}] * 3, begins, 0, 8)


def test_shares_follow_the_weights_of_a_stage() -> None:
    split = make_split({name: several * 5 for name, several in pairs_and_texts().items()}, V)
    base = dict.fromkeys(("a", "b", "text", "prose"), 1.0)
    plan = StagedPlan(split, (40, 8), [base, base | {"b": 3.0}], [40], 0, 16)
    tokens = [Counter(p.document // 200 for s in range(a, a + 40) for p in plan.pieces(s)) for a in (0, 40)]
    assert (tokens[0][0], tokens[0][1]) == (40, 40)
    assert tokens[1][0] == pytest.approx(20, abs=1)
    assert np.sum([use.passes for use in plan.uses(80)[1] if use.of == "image"]) == pytest.approx(80 / 200, abs=1e-3)
