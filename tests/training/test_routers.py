"""What a step does for routers: losses over the global batch, state, what is reported, and the alarm."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from momafuse.data.batch import Batch, begins_of
from momafuse.objectives.routing import RouterLosses
from momafuse.training.routers import ALARMS, PATIENCE, RouterWork
from momafuse.world import World
from tests.batches import make_batch, make_model

ALONE = World(0, 1, torch.device("cpu"), None, None)
LOSS = {"balance": 0.5, "importance": 0.3, "z": 0.1, "local_entropy": {"text": 0.2}, "global_entropy": {"image": 0.4},
        "least_experts": {"image": 4.0}}  # fmt: skip


def made(kind="token_choice", experts=None, loss=None, **more):
    routing = {"kind": kind, "loss": LOSS if loss is None else loss, **more}
    return make_model(experts or {"text": 3, "image": 2}, routing=routing, dtype=torch.float64, pool=1)


def stretch(batch: Batch, first: int, last: int) -> Batch:
    cut = {
        name: getattr(batch, name)[first:last] for name in ("tokens", "targets", "modality", "document", "position", "sequence")
    }
    return replace(batch, **cut, begins=begins_of(cut["document"]), order=cut["modality"].flatten().argsort(stable=True))


def decided(model, batch):
    return model(batch, lambda hidden, head: hidden)[1]


def step(model, batch, micro_batches):
    """Gradients of the routers' losses of each micro-batch, what was added up over them, and the work."""
    work, size = RouterWork(model, ALONE, micro_batches), batch.shape[0] // micro_batches
    work.begin()
    gradients, sums = [], None
    for i in range(micro_batches):
        part = stretch(batch, i * size, (i + 1) * size)
        loss, mine = work.of_micro_batch(part, decided(model, part), torch.tensor(i + 1))
        leaves = list(model.parameters())
        gradients.append(
            torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True) if loss is not None else ()
        )
        sums = mine if sums is None else sums + mine
    return gradients, sums, work


def whole_gradient(model, batch, scaled_to=None):
    """Of the loss of all rows, by autograd through all of them."""
    losses = RouterLosses(model.router.loss, model.groups, model.modality_names)
    plans = [(d.experts, d.kept or batch) for d in decided(model, batch) if d.experts is not None]
    total = losses.total(losses.values(losses.sums(plans)))
    return total, torch.autograd.grad(total, list(model.parameters()), materialize_grads=True, allow_unused=True)


@pytest.mark.parametrize("kind", ["token_choice", "threshold", "expert_choice"])
def test_one_micro_batch_has_the_gradient_of_the_global_batch(kind):
    model, batch = made(kind), make_batch(4, (7, 5))
    for router in model.routers():
        if router.state is not None:
            router.state.write(torch.zeros(5))
    (gradient,), sums, work = step(model, batch, 1)
    total, wanted = whole_gradient(model, batch)
    for a, b in zip(gradient, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert any(g.abs().max() > 1e-6 for g in wanted)
    assert work.row(sums.tolist())["train/router_loss"] == pytest.approx(total.item(), rel=1e-10)


def test_the_last_micro_batch_knows_the_sums_of_all_and_earlier_ones_those_so_far():
    """Each one's gradient is that of the loss at the sums so far, scaled up to a step, through its own rows."""
    model, batch = made(), make_batch(4, (7, 5))
    gradients, sums, work = step(model, batch, 4)
    losses = work.losses
    so_far = torch.zeros(())
    for i in range(4):
        part = stretch(batch, i, i + 1)
        own = losses.sums([(d.experts, part) for d in decided(model, part)])
        so_far = so_far + own.flat().detach()
        at = (so_far * 4 / (i + 1)).requires_grad_()
        slope = torch.autograd.grad(losses.total(losses.values(losses.unflattened(at))), at)[0]
        wanted = torch.autograd.grad(own.flat() @ slope, list(model.parameters()), materialize_grads=True, allow_unused=True)
        for a, b in zip(gradients[i], wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    reported = work.row(sums.tolist())["train/router_loss"]
    assert reported == pytest.approx(whole_gradient(model, batch)[0].item(), rel=1e-10)


def test_a_step_forgets_the_one_before():
    model, batch = made(), make_batch(4, (7, 5))
    first, _, work = step(model, batch, 1)
    for _ in range(2):
        work.begin()
        loss, _ = work.of_micro_batch(batch, decided(model, batch), torch.tensor(1))
        again = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True, allow_unused=True)
        assert all(torch.equal(a, b) for a, b in zip(first[0], again, strict=True))


@pytest.mark.parametrize(("kind", "more"), [("threshold", {}), ("token_choice", {"bias_rate": 0.01})])
def test_state_after_a_step_is_the_same_in_one_micro_batch_or_four(kind, more):
    states = []
    for micro_batches in (1, 4):
        model = made(kind, **more)
        _, sums, work = step(model, make_batch(4, (7, 5)), micro_batches)
        work.update(sums)
        states.append([router.state() for router in model.routers()])
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert a.isfinite().all()
        assert a.abs().max() > 0


def test_without_a_router_or_a_loss_nothing_is_added_up():
    for model in (made(experts={"all": 1}), made("expert_choice", loss={}), made("hash", loss={})):
        (gradient,), sums, work = step(model, make_batch(4, (7, 5)), 1)
        assert gradient == ()
        assert sums.numel() == 0
        assert work.row(sums.tolist()) == {}
        assert work.said() == []


def test_what_is_reported_is_by_name():
    model = made("token_choice", loss={})
    (gradient,), sums, work = step(model, make_batch(4, (7, 5)), 1)
    row = work.row(sums.tolist())
    assert gradient == ()
    assert "train/router_loss" not in row
    assert {"router/balance", "router/z", "router/importance", "router/max_violation"} <= set(row)
    assert all(math.isfinite(v) for v in row.values())
    assert row["router/dropped"] == 0


def test_what_a_capacity_drops_is_counted():
    model, batch = made("token_choice", top_k=2, dropless=False, loss={}), make_batch(4, (7, 5))
    _, sums, work = step(model, batch, 1)
    decisions = model(batch, lambda hidden, head: hidden)[1]
    chosen = sum(int(d.experts.scores.chosen.sum()) for d in decisions)
    computed = sum(int(d.experts.offsets[-1]) for d in decisions)  # every group of this model is routed
    assert all(g.experts > 1 for g in model.groups)
    assert 0 < computed < chosen
    assert work.row(sums.tolist())["router/dropped"] == pytest.approx(1 - computed / chosen, abs=1e-12)


# -- the alarm


def biased_to(shares: list[float], work: RouterWork) -> list[float]:
    """Sums of a step where the first layer's group of text has these shares of the choices, all else is even."""
    n, m, layers, g = 5, 2, 2, 2
    choices = torch.zeros(layers, m, n, dtype=torch.float64)
    choices[:, 0, :3], choices[:, 1, 3:] = 100.0, 100.0
    choices[0, 0, :3] = torch.tensor(shares, dtype=torch.float64) * 300
    rows = torch.zeros(layers, m, g, dtype=torch.float64)
    rows[:, 0, 0], rows[:, 1, 1] = 300, 200
    zeros = torch.zeros(layers, m, n, dtype=torch.float64)
    small = torch.zeros(layers, m, g, dtype=torch.float64)
    computed = choices.sum().view(1)
    return torch.cat([t.flatten() for t in (zeros, choices, zeros, rows, small, small, computed)]).tolist()


@pytest.mark.parametrize(
    ("shares", "expert", "what"),
    [
        ([0.01, 0.49, 0.5], 0, "less than 5% of its even share of the choices for 100 steps, it starves"),
        ([0.05, 0.04, 0.91], 2, "more than 90% of the choices for 100 steps, the others starve"),
    ],
    ids=["starving", "greedy"],
)
def test_the_alarm_fires_once_after_so_many_steps_and_again_after_a_rest(shares, expert, what):
    work = RouterWork(made(loss={}), ALONE, 1)
    bad, even = biased_to(shares, work), biased_to([1 / 3] * 3, work)

    def steps(sums: list[float], count: int) -> list[list[str]]:
        said = []
        for _ in range(count):
            work.row(sums)
            said.append(work.said())
            assert work.said() == []
        return said

    assert steps(bad, PATIENCE - 1) == [[]] * (PATIENCE - 1)
    (line, remedy), *rest = steps(bad, 50)
    assert line == f"router of layer 0: expert {expert} of `text` has got {what}"
    assert "router.loss.balance=0.01" in remedy
    assert "router.bias_rate=0.001" in remedy
    assert rest == [[]] * 49
    assert steps(even, 1) == [[]]
    assert [bool(s) for s in steps(bad, PATIENCE)] == [False] * (PATIENCE - 1) + [True]


def test_an_expert_at_the_limit_does_not_starve():
    work = RouterWork(made(loss={}), ALONE, 1)
    fine = biased_to([0.05 / 3 * 1.01, 0.5, 0.5 - 0.05 / 3 * 1.01], work)
    for _ in range(PATIENCE + 1):
        work.row(fine)
        assert work.said() == []


def test_many_experts_that_starve_are_a_few_lines():
    work = RouterWork(made(experts={"all": 8}, loss={}), ALONE, 1)
    layers, m, n = 2, 2, 8
    choices = torch.zeros(layers, m, n, dtype=torch.float64)
    choices[..., 0] = 100
    rest = torch.cat([torch.ones(3 * layers * m).double(), choices.sum().view(1)])
    flat = torch.cat([choices.flatten() * 0, choices.flatten(), choices.flatten() * 0, rest])
    for _ in range(PATIENCE):
        work.row(flat.tolist())
    said = work.said()
    assert len(said) == ALARMS + 2
    assert said[-2] == f"and {2 * 7 + 2 - ALARMS} experts more"


# -- many ranks


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict[str, dict[str, float]]:
    out = tmp_path_factory.mktemp("ranks") / "two.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "tests.training.router_ranks", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, float]] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("name", ["moe_token_choice", "moe_loss_free", "moma_threshold"])
def test_two_ranks_are_one_process(two, name):
    """Three steps, sharded: weights, the loss that is reported, and the state."""
    assert two[name]["weights"] < 1e-6
    assert two[name]["reported"] < 1e-6
    assert two[name]["state"] < 1e-6
    assert two[name]["moved"] > 1e-4
