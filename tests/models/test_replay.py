"""Decisions of an earlier forward, replayed: the same loss while weights are the same, the same choice whatever they are."""

from __future__ import annotations

import pytest
import torch

from momafuse.config.schema import DepthConfig
from momafuse.routing.auxiliary import taken_by
from tests.batches import make_batch
from tests.members import member
from tests.models.loops import RouterSpec, distinct_batch
from tests.models.router_kinds import GROUPS, KINDS, made

DEPTHS = {
    "no depth": None,
    "per_modality": DepthConfig(every=2, start=0, capacity=0.5, per_modality=True),
    "of_pool": DepthConfig(every=2, start=0, capacity=0.5, per_modality=False),
}
ALL = KINDS | {"expert choice": RouterSpec()}


def total(model, batch, noise=None, replay=None):
    loss, decisions = model(batch, lambda hidden, head: (hidden @ head.t()).logsumexp(1).sum(), noise, replay=replay)
    return loss, decisions


def chosen(decisions) -> list[torch.Tensor]:
    """Kept rows, and (T, E) of experts, of each layer."""
    found = []
    for d in decisions:
        found += [] if d.kept is None else [d.kept.rows]
        found.append(taken_by(d.experts, d.experts.slots.shape[0]))
    return found


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "noisy"])
@pytest.mark.parametrize("kind", ALL)
def test_replayed_decisions_give_the_same_loss_and_gradients(kind, noisy, depth):
    model, _ = made(GROUPS["modalities"], ALL[kind], depth=DEPTHS[depth])
    batch = distinct_batch(4, (8, 6))
    noise = torch.randn(2, 56, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64) if noisy else None
    loss, decisions = total(model, batch, noise)
    again, others = total(model, batch, noise, decisions)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(chosen(decisions), chosen(others), strict=True))
    leaves = list(model.parameters())
    for a, b in zip(*(torch.autograd.grad(y, leaves, materialize_grads=True) for y in (loss, again)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in ("hash", "uniform")])
def test_the_choice_stays_where_routers_have_changed(kind, depth):
    model, _ = made(GROUPS["modalities"], ALL[kind], depth=DEPTHS[depth])
    batch = distinct_batch(4, (8, 6))
    loss, decisions = total(model, batch)
    wanted = [t.clone() for t in chosen(decisions)]
    with torch.no_grad():
        for path, p in model.named_parameters():
            if "router" in path:
                p.neg_()
    free, changed = total(model, batch)
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(wanted, chosen(changed), strict=True))
    again, others = total(model, batch, replay=decisions)
    assert all(torch.equal(a, b) for a, b in zip(wanted, chosen(others), strict=True))
    assert again != loss  # gates are those of the weights of now
    assert again != free


@pytest.mark.parametrize(
    "name", ["moma_4t4i", "mod_moma_4t4i", "moe_token_choice", "moe_top2", "limoe_router", "moma_threshold"]
)
def test_a_member_replayed_is_the_same_to_the_bit_in_fp32(name):
    model = member(name)
    for router in model.routers():
        if router.state is not None:
            router.state.write(torch.zeros(router.n_routed))
    batch = make_batch(8, (40, 24))
    loss, decisions = total(model, batch)
    again, others = total(model, batch, replay=decisions)
    assert all(torch.equal(a, b) for a, b in zip(chosen(decisions), chosen(others), strict=True))
    assert torch.equal(loss, again)
