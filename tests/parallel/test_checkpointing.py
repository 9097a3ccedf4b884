"""Activation checkpointing: the same numbers to the last bit, less kept, and no router asked twice."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from momafuse.models.transformer import Transformer
from momafuse.parallel.checkpointing import apply_activation_checkpointing
from momafuse.routing.noise import logistic_noise
from tests.batches import make_batch
from tests.members import MEMBERS, mean_loss, member


class Choices(TorchDispatchMode):
    """Counts the routing decisions that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made += func is torch.ops.momafuse.top_rows.default
        return func(*args, **(kwargs or {}))


def step(model: Transformer, mode: str, *, noisy: bool = False):
    """Loss, gradients by path, decisions, and how often a router chose, in one forward and backward."""
    apply_activation_checkpointing(model, mode)
    batch = make_batch(8, (40, 24))
    noise = logistic_noise(batch, seed=0, step=1, layers=len(model.blocks), experts=model.n_experts) if noisy else None
    with Choices() as choices:
        loss, decisions = mean_loss(model, batch, noise)
        loss.backward()
    return loss.detach(), {path: p.grad for path, p in model.named_parameters()}, decisions, choices.made


def assert_same(plain, checkpointed):
    (loss, grads, decisions, made), (loss2, grads2, decisions2, made2) = plain, checkpointed
    assert torch.equal(loss, loss2)
    assert made == made2
    for path, grad in grads.items():
        assert torch.equal(grad, grads2[path]), path
    for a, b in zip(decisions, decisions2, strict=True):
        assert (a.experts is None) == (b.experts is None)
        assert a.experts is None or torch.equal(a.experts.rows, b.experts.rows)
        assert a.kept is None or torch.equal(a.kept.rows, b.kept.rows)


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("name", MEMBERS)
def test_on_is_off_bit_for_bit(name, mode):
    model = member(name)
    plain = step(member(name), "none")
    layers = sum(b.experts.router is not None for b in model.blocks) + sum(hasattr(b, "depth_router") for b in model.blocks)
    orders = len(model.blocks) if model.router.priority else 0
    assert plain[3] == layers + orders, "a router chooses once a layer, and orders rows once where some go first"
    assert_same(plain, step(model, mode))


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("name", ["moma_4t4i", "moe_8x", "mod_dense", "mod_moma_4t4i"])
def test_ties_are_no_exception(name, mode):
    """Router weights of zero: all rows of a pool have the same logit."""

    def tied() -> Transformer:
        model = member(name)
        with torch.no_grad():
            for path, p in model.named_parameters():
                if "router" in path:
                    p.zero_()
        return model

    assert_same(step(tied(), "none"), step(tied(), mode))


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("moma_threshold", ()),
        ("moe_loss_free", ()),
        ("moe_top2", ("router.dropless=false",)),
        ("moma_4t4i", ("router.kind=hash",)),
        ("mod_moma_4t4i", ("router.kind=uniform",)),
        ("mod_moma_4t4i", ("router.kind=token_choice", "router.top_k=2", "router.normalise=true")),
    ],
    ids=str,
)
def test_the_state_of_routers_is_that_of_the_forward(name, words, mode):
    """Thresholds and biases that a later step writes before the backward, as no loop does, change no decision of this one."""

    def stateful() -> Transformer:
        model = member(name, *words)
        for router in model.routers():
            if router.state is not None:
                router.state.write(torch.linspace(-0.2, 0.2, router.n_routed))
        return model

    plain, checkpointed = step(stateful(), "none"), step(stateful(), mode)
    assert all(d.experts.offsets[-1] > 0 for d in plain[2])
    assert_same(plain, checkpointed)

    def late(mode: str) -> dict[str, torch.Tensor]:
        model = stateful()
        apply_activation_checkpointing(model, mode)
        loss, _ = mean_loss(model, make_batch(8, (40, 24)))
        for router in model.routers():
            if router.state is not None:
                router.state.write(router.state().flip(0))
        loss.backward()
        return {path: p.grad for path, p in model.named_parameters()}

    expected, found = late("none"), late(mode)
    for path, gradient in expected.items():
        assert torch.equal(gradient, found[path]), path


def test_noise_and_dropout_are_the_same_in_recomputation():
    def model() -> Transformer:
        torch.manual_seed(3)
        return member("moma_4t4i", "model.placement=pre", "model.dropout=0.1")

    assert_same(step(model(), "none", noisy=True), step(model(), "full", noisy=True))


def test_less_is_kept():
    """Bytes that autograd keeps outside the blocks' recomputation, by its own hooks."""

    def kept(mode: str) -> int:
        model = member("moma_4t4i", "model.n_layers=6")
        apply_activation_checkpointing(model, mode)
        seen: dict[int, int] = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss, _ = mean_loss(model, make_batch(8, (40, 24)))
        assert loss.requires_grad
        return sum(seen.values())

    assert kept("full") < kept("none") / 3


def test_parameter_paths_stay():
    model = member("mot")
    before = list(model.state_dict())
    apply_activation_checkpointing(model, "full")
    assert list(model.state_dict()) == before
