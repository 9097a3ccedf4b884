"""What a loader promises of an epoch, judged from its batches and pieces alone: on small corpora of any shape, and on one of a
million documents."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from momafuse.data.loader import Loader
from momafuse.data.mixture import Ints
from momafuse.data.packing import PackPlan
from tests.data.toy import Case, cases, large


def check_epoch(case: Case, number: int, micro_batch: int) -> float:
    """Every sequence holds its budgets exactly; they are its whole length, so that there is no padding, and no id is `pad`.
    -> how much of the text that comes with pictures sat out (check_use)."""
    split, plan = case.split, PackPlan(*case.plan_arguments)
    loader, each = Loader(split, case.vocabulary, plan, case.budget), plan.sequences_per_epoch
    kinds, edges = case.vocabulary.modality_of_ids(), np.zeros(len(split.tokens) + 1, np.int64)
    for at in range(number * each, (number + 1) * each, micro_batch):
        sequences = range(at, min(at + micro_batch, (number + 1) * each))
        ids = loader.batch(sequences).tokens.numpy()
        assert not (ids == case.vocabulary.specials.pad).any()
        for modality, tokens in enumerate(case.budget):
            assert ((kinds[ids] == modality).sum(axis=1) == tokens).all()
    for window in range(plan.find(each - 1)[1] + 1):
        pieces = plan.window(number, window)
        np.add.at(edges, split.offsets[pieces.document] + pieces.start, 1)
        np.add.at(edges, split.offsets[pieces.document] + pieces.stop, -1)
    used = np.cumsum(edges)[:-1]
    assert int(used.sum()) == each * sum(case.budget)
    return check_use(case, plan, number, used)


def check_use(case: Case, plan: PackPlan, number: int, used: Ints) -> float:
    """`used`: how often each token of the corpus comes in an epoch. A token of a picture: never more often than the passes that
    the plan says, and of one pass nothing sits out but less than a sequence's pictures. A token of text alone: as often as the
    plan says, the whole source before any of it again, but for what is read in place of text that sat out.
    -> the share of that in the text that comes with pictures."""
    split, sat_out = case.split, 0
    is_image = case.vocabulary.modality_of_ids()[split.tokens] == 1
    for line in plan.lines:
        begins, ends = (plan.lines.places(line, number + n, 0).tolist() for n in (0, 1))
        for tape, begin, end in zip(line.mixture.tapes, begins, ends, strict=True):
            source = next(s for s in split.sources if s.name == tape.name)
            at = slice(int(split.offsets[source.first]), int(split.offsets[source.first + source.documents]))
            whole, touched = end // tape.length + -begin // tape.length, -(-end // tape.length) - begin // tape.length
            if line.modality:
                assert used[at].max() <= touched
                left = source.tokens[1] * touched - int(used[at][is_image[at]].sum())
                assert left >= 0
                if len(line.mixture.tapes) == touched == 1:
                    assert left < case.budget[1]
            else:
                again = int(used[at].sum()) - (end - begin)
                assert again >= 0
                assert used[at].min() >= whole
                assert int(np.maximum(used[at] - touched, 0).sum()) <= again
                sat_out += again
    return sat_out / sum(s.tokens[0] for s in split.sources if not s.plain)


@settings(max_examples=80)
@given(cases())
def test_an_epoch_of_a_small_corpus(case: Case) -> None:
    for number in range(2):
        check_epoch(case, number, 3)


def test_an_epoch_of_a_million_documents() -> None:
    split, vocabulary = large(300_000, 700_000)
    case = Case(split, vocabulary, (80, 8), {"pictures": 1.0, "texts": 1.0}, 4096, 0)
    assert check_epoch(case, 0, 512) < 0.001
