"""Causal routing: no row before a change moves, no choice for it changes, and each choice is the auxiliary router's.

Auxiliary scores are spread around the threshold by large weights, so that every router takes some rows and leaves others.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from momafuse.data.batch import Batch
from momafuse.models.block import Decision
from momafuse.models.transformer import Transformer
from momafuse.routing.auxiliary import taken_by
from tests.models.loops import distinct_batch
from tests.models.zoo import CAUSAL, GUESSED, WITHOUT_ROUTER, ZOO, build

BUDGET, PAST = (10, 10), 13
ROUTED = [name for name in ZOO if name not in CAUSAL]


def forward(model: Transformer, batch: Batch) -> tuple[Tensor, list[Decision]]:
    """Logits (B, S, V) and decisions under causal routing."""
    logits, decisions = model(batch, lambda hidden, head: hidden @ head.t(), routing="causal")
    return logits.view(*batch.shape, -1), decisions


def chosen(decisions: list[Decision], batch: Batch, past: int) -> list[Tensor]:
    """What was taken of the first `past` rows of each sequence: (B, past) kept rows, (B, past, E) of experts."""
    sequences, length = batch.shape
    found = []
    for d in decisions:
        numbers = torch.arange(sequences * length)
        if d.kept is not None:
            numbers = d.kept.rows.flatten()
            kept = torch.zeros(sequences * length, dtype=torch.bool).index_fill(0, numbers, True)
            found.append(kept.view(sequences, length)[:, :past])
        if d.experts is not None:
            mine = taken_by(d.experts, len(numbers))
            taken = torch.zeros(sequences * length, mine.shape[1], dtype=torch.bool).index_copy(0, numbers, mine)
            found.append(taken.view(sequences, length, -1)[:, :past])
    return found


def with_other_future(batch: Batch, past: int) -> Batch:
    """Other tokens from `past` on; of the other modality, too, where that keeps the budget."""
    tokens, modality = batch.tokens.clone(), batch.modality.clone()
    tokens[:, past:], modality[:, past:] = tokens[:, past:].flip(1), modality[:, past:].flip(1)
    return replace(batch, tokens=tokens, modality=modality, order=modality.flatten().argsort(stable=True))


def prefix(batch: Batch, sequence: int, past: int) -> Batch:
    """The first rows of one sequence alone."""
    modality = batch.modality[sequence : sequence + 1, :past]
    cut = {name: getattr(batch, name)[sequence : sequence + 1, :past] for name in ("tokens", "targets", "document", "position")}
    budget = tuple(int((modality == m).sum()) for m in range(2))
    order = modality.flatten().argsort(stable=True)
    numbers = batch.sequence[sequence : sequence + 1]
    return replace(batch, modality=modality, sequence=numbers, order=order, budget=budget, **cut)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["fp64", "fp32"])
@pytest.mark.parametrize("placement", ["swin", "pre"])
@pytest.mark.parametrize("name", ROUTED)
def test_a_prefix_does_not_know_what_follows(name, placement, dtype, tolerance):
    model, _ = build(name, placement, auxiliary=True)
    model = model.to(dtype)
    batch = distinct_batch(2, BUDGET)
    logits, decisions = forward(model, batch)
    mine = chosen(decisions, batch, PAST)
    assert any(t.any() and not t.all() for t in mine)
    other = with_other_future(batch, PAST)
    assert (other.tokens[:, PAST:] != batch.tokens[:, PAST:]).any()
    again, others = forward(model, other)
    assert (again[:, PAST:] - logits[:, PAST:]).abs().max() > 1e-3
    assert (again[:, :PAST] - logits[:, :PAST]).abs().max() <= tolerance
    if dtype == torch.float64:
        assert all(torch.equal(a, b) for a, b in zip(mine, chosen(others, other, PAST), strict=True))
    for sequence in range(2):
        alone = prefix(batch, sequence, PAST)
        short, own = forward(model, alone)
        assert (short[0] - logits[sequence, :PAST]).abs().max() <= tolerance
        if dtype == torch.float64:
            assert all(torch.equal(a[0], b[sequence]) for a, b in zip(chosen(own, alone, PAST), mine, strict=True))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_model_that_does_not_look_ahead_is_causal_already(name):
    """To the last bit without a router; with one, rows are added up in another order."""
    model, _ = build(name, auxiliary=True)
    assert not any("auxiliary" in path for path, _ in model.named_parameters())
    batch = distinct_batch(2, BUDGET)
    trained = model(batch, lambda hidden, head: hidden @ head.t())[0]
    difference = (forward(model, batch)[0].flatten(0, 1) - trained).abs().max()
    assert difference <= (0 if name in WITHOUT_ROUTER else 1e-12)


@pytest.mark.parametrize("name", GUESSED)
def test_auxiliary_routers_change_nothing_in_training(name):
    plain, _ = build(name)
    model, _ = build(name, auxiliary=True)
    model.load_state_dict(plain.state_dict(), strict=False)
    batch = distinct_batch(2, BUDGET)
    results = [m(batch, lambda hidden, head: hidden @ head.t(), None, r)[0] for m, r in
               ((plain, "training"), (model, "training"), (model, "teaching"))]  # fmt: skip
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", GUESSED)
def test_perfect_guesses_are_training_routing(name, monkeypatch):
    """Auxiliary scores that say what the main routers took give the same function, by another path."""
    from momafuse.models.depth import DepthBlock
    from momafuse.models.experts import Experts
    from momafuse.routing.auxiliary import Auxiliary

    model, _ = build(name, auxiliary=True)
    batch = distinct_batch(2, BUDGET)
    expected, decisions = model(batch, lambda hidden, head: hidden @ head.t(), None, "teaching")
    answers = {}
    for block, d in zip(model.blocks, decisions, strict=True):
        if isinstance(block, DepthBlock):
            answers[id(block.depth_auxiliary)] = d.depth_lesson.taken
        if isinstance(block.experts, Experts) and d.lesson is not None:
            answers[id(block.experts.auxiliary)] = d.lesson.taken
    monkeypatch.setattr(Auxiliary, "forward", lambda self, x: answers[id(self)].double() - 0.5)
    got = forward(model, batch)[0].flatten(0, 1)
    assert (got - expected).abs().max() < 1e-10


def test_a_lesson_says_what_the_routers_took_and_reaches_only_the_auxiliary_routers():
    model, _ = build("mod_moma_4t4i", auxiliary=True)
    batch = distinct_batch(2, BUDGET)
    with torch.no_grad():
        decisions = model(batch, lambda hidden, head: None, None, "teaching")[1]
    lessons = [lesson for d in decisions for lesson in (d.lesson, d.depth_lesson) if lesson is not None]
    for d in decisions:
        rows = len(d.lesson.modality)
        for e in range(8):
            mine = d.experts.rows[d.experts.offsets[e] : d.experts.offsets[e + 1]]
            assert sorted(d.lesson.taken[:, e].nonzero().flatten().tolist()) == sorted(mine.tolist())
            assert torch.equal(d.lesson.served[:, e], d.lesson.modality == e // 4)
        assert d.lesson.logits.shape == (rows, 8)
    sum(lesson.logits.sum() for lesson in lessons).backward()
    for path, p in model.named_parameters():
        assert (p.grad is not None) == ("auxiliary" in path), path


def test_no_row_kept_is_a_causal_forward_too():
    model, _ = build("mod_moma_4t4i", auxiliary=True)
    with torch.no_grad():
        for path, p in model.named_parameters():
            if "auxiliary.score" in path:
                p.zero_()
    assert forward(model, distinct_batch(2, BUDGET))[0].isfinite().all()


def test_the_score_is_that_of_the_paper():
    model, _ = build("moma_4t4i", auxiliary=True)
    auxiliary = model.blocks[0].experts.auxiliary
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in range(3):
        for g, name in enumerate(("text", "image")):
            hidden = [sum(w * v for w, v in zip(row.tolist(), x[t].tolist(), strict=True)) for row in auxiliary.hidden[name]]
            active = [h / (1 + torch.tensor(-h, dtype=torch.float64).exp().item()) for h in hidden]
            for e in range(4):
                z = sum(w * a for w, a in zip(auxiliary.score[name][e].tolist(), active, strict=True))
                assert float(auxiliary(x)[t, 4 * g + e]) == pytest.approx(z, abs=1e-12)
    assert auxiliary(x.bfloat16()).dtype == torch.float32
