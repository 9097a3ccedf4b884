"""Micro-batches by graphs, with a recording of ops in their place: tensors that stay, gradients, documents, what is refused."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch

from momafuse.config.compose import compose
from momafuse.errors import UserError
from momafuse.parallel.graphs import WARM, CudaCapture, Replayed, check_graphs
from momafuse.parallel.precision import working
from momafuse.training.losses import LossMeter
from momafuse.training.routers import RouterWork
from momafuse.training.step import backward, micro_batch, numbers
from tests.batches import make_batch
from tests.training.recorded import Recording
from tests.training.test_step import made, meter

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MEMBERS = ("dense", "moma_4t4i", "mot", "mod_moma_4t4i", "moe_8x")


def trained(name: str, *words: str, capture=None, documents: int = 1, kept: bool = False, device=CPU):
    """Chosen rows and losses of steps of four micro-batches each, and the weights after them; eager without a `capture`."""
    config, setup = made(name, *words, device=device)
    optimizer = torch.optim.AdamW(setup.model.parameters(), lr=3e-2)
    work = RouterWork(setup.model, setup.world, 4)
    copies, table = working(setup.model, torch.bfloat16), meter(device).table

    def compute(batch, of_step):
        mine = LossMeter(setup.model.modality_names, table)
        return micro_batch(config, setup, batch, mine, of_step, work), mine.sums

    once, seen = None if capture is None else Replayed(compute, list(setup.model.parameters()), capture), []
    for step in range(1, 5):
        work.begin()
        with copies():
            for i in range(4):
                seed = 4 * step + i
                batch = make_batch(4, (40, 24), seed=seed, first_sequence=4 * i, documents=1 + seed % documents)
                of_step = numbers(setup, 50 + step, step, i + 1)
                if once is None:
                    mine = LossMeter(setup.model.modality_names, table)
                    seen.append((backward(config, setup, batch, mine, of_step, step, work), mine.sums))
                else:
                    seen.append(once(batch, of_step))
        if step == 2 and kept:  # as where something else adds to these gradients
            continue
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return seen, [p.detach() for p in setup.model.parameters()]


def assert_equal(one, other):
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert all(map(torch.equal, mine, theirs))
    assert all(map(torch.equal, one[1], other[1]))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_replayed_is_eager_to_the_last_digit(name, kept):
    capture = Recording(CPU)
    assert_equal(trained(name, capture=capture, kept=kept), trained(name, kept=kept))
    assert (capture.warmed, capture.captured) == (WARM, 1)


def test_each_power_of_two_of_documents_has_a_graph_of_its_own():
    """Sequences of one document and of two take turns, so that captures fall into the midst of steps."""
    capture = Recording(CPU)
    assert_equal(trained("moma_4t4i", capture=capture, documents=2), trained("moma_4t4i", documents=2))
    assert (capture.warmed, capture.captured) == (2 * WARM, 2)


def test_losses_of_routers_add_up_over_replays():
    """What was seen so far of a step lies in a tensor that stays."""
    words = ("router.loss={balance: 1.0, z: 0.1}",)
    eager = trained("moma_4t4i", *words)
    assert_equal(trained("moma_4t4i", *words, capture=Recording(CPU)), eager)
    assert not all(map(torch.equal, eager[1], trained("moma_4t4i")[1]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=0 compiles the kernels")
@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("name", ["dense", "moma_4t4i", "mod_moma_4t4i"])
def test_cuda_graphs_are_eager_to_the_last_digit(name, compiled):
    words = (f"trainer.compile={compiled}",)
    mine = trained(name, *words, capture=CudaCapture(CUDA), documents=2, device=CUDA)
    assert_equal(mine, trained(name, *words, documents=2, device=CUDA))


def test_documents_without_rows_fill_up():
    seen = []

    def compute(batch, _):
        seen.append(batch.begins.clone())
        return ()

    once = Replayed(compute, [], Recording(CPU))
    for documents in (1, 5, 1):
        batch = make_batch(3, (40, 24), documents=documents)
        once(batch, torch.zeros(2))
        n = len(batch.begins)
        assert torch.equal(seen[-1][:n], batch.begins)
        assert torch.equal(seen[-1][n:], torch.full_like(seen[-1][n:], 3 * 64))
        assert (len(seen[-1]) - 1).bit_count() == 1


@pytest.mark.parametrize(
    ("words", "device", "sharded", "problem"),
    [
        ((), CPU, False, "needs a GPU"),
        ((), CUDA, True, "one process"),
        (("model.placement=pre", "model.dropout=0.1"), CUDA, False, "model.dropout"),
        (("upcycle=x", "upcycling.capacity_steps=2", "trainer.compile=false"), CUDA, False, "capacity_steps"),
        (("trainer.backend=reference",), CUDA, False, "trainer.backend"),
        ((), CUDA, False, None),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(words, device, sharded, problem):
    check = partial(check_graphs, device=device, sharded=sharded)
    plain = ["size=micro", "+experiment=moma_4t4i", *words]
    check(compose(plain).config)
    asked = compose([*plain, "trainer.cuda_graphs=true"]).config
    if problem is None:
        check(asked)
    else:
        with pytest.raises(UserError, match=rf"trainer\.cuda_graphs=true: .*{problem}"):
            check(asked)
