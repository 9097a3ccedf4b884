"""Members that must be one function where the mathematics says so: equal experts, equal modalities, open gates, renaming."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from momafuse.config.schema import DepthConfig
from momafuse.data.batch import Batch
from momafuse.models.context import recipe
from momafuse.models.experts import Experts
from momafuse.models.transformer import Transformer
from momafuse.routing.expert_choice import ExpertChoice
from momafuse.routing.plan import groups_of
from momafuse.training.optimizer import build_optimizer
from tests.batches import make_batch, make_model, router_config
from tests.members import mean_loss
from tests.models.loops import shaken, silu
from tests.models.zoo import EVERYTHING, build, composed

NAMES = ("text", "image")


def make_experts(counts: dict[str, int], capacity_factor: float = 1.0, equal: bool = False) -> Experts:
    """Experts of width 8 for rows of 6 numbers, in pools of 2; `equal`: all experts of all groups are one FFN."""
    groups = groups_of(counts, NAMES, 8)
    settings = router_config(pool=2, capacity_factor=capacity_factor)
    router = ExpertChoice(groups, 6, settings) if any(g.experts > 1 for g in groups) else None
    experts = Experts(groups, 6, router, "auto").double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in experts.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        if equal:
            first = experts.groups[next(iter(counts))]
            for group in experts.groups.values():
                for mine, theirs in zip(group.parameters(), first.parameters(), strict=True):
                    mine.copy_(theirs[:1].expand_as(mine))
    return experts


def ffn(experts: Experts, name: str, x: Tensor) -> Tensor:
    """The first expert of a group as a plain FFN: x (..., D)."""
    g = experts.groups[name]
    return (silu(x @ g.gate[0]) * (x @ g.up[0])) @ g.down[0]


def run(counts: dict[str, int], experts: Experts, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """y (T, D), and how many experts took each row."""
    no_table = torch.zeros(2, batch.shape[0], 1, batch.shape[1], 3)  # attention's; experts do not read it
    context = recipe(groups_of(counts, NAMES, 8), NAMES, (), "auto").context(batch, no_table, None, torch.float32)
    y, plan, _ = experts(x.view(*batch.shape, -1), context, None)
    return y.flatten(0, 1), (plan.slots >= 0).sum(1)


def rows_with_a_one(batch: Batch) -> Tensor:
    """Random rows whose last number is 1, so that the last column of a router's weight is a bias."""
    x = torch.randn(batch.tokens.numel(), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, -1] = 1
    return x


def test_groups_of_one_expert_are_an_ffn_for_each_modality():
    counts = {"text": 1, "image": 1}
    experts, batch = make_experts(counts), make_batch(2, (7, 5))
    x = rows_with_a_one(batch)
    y, _ = run(counts, experts, x, batch)
    for row, m in enumerate(batch.modality.flatten().tolist()):
        torch.testing.assert_close(y[row], ffn(experts, NAMES[m], x[row]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("counts", [{"text": 4, "image": 4}, {"text": 3, "image": 5}, {"all": 8}], ids=str)
def test_equal_experts_with_open_gates_count_how_often_a_row_was_taken(counts):
    experts, batch = make_experts(counts, equal=True), make_batch(2, (40, 40))
    with torch.no_grad():
        for w in experts.router.weight.values():
            w[:, -1] += 60  # sigmoid(60) is 1 to the last digit of float64
    x = rows_with_a_one(batch)
    y, times = run(counts, experts, x, batch)
    assert {0, 1, 2} <= set(times.tolist())
    torch.testing.assert_close(y, times[:, None] * ffn(experts, next(iter(counts)), x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("counts", [{"text": 4, "image": 4}, {"all": 8}], ids=str)
def test_equal_experts_that_take_every_row_with_gates_of_one_in_e_are_one_ffn(counts):
    e = next(iter(counts.values()))
    experts, batch = make_experts(counts, capacity_factor=e, equal=True), make_batch(2, (9, 7))
    with torch.no_grad():
        for w in experts.router.weight.values():
            w.zero_()
            w[:, -1] = -math.log(e - 1)  # sigmoid of it is 1 / e
    x = rows_with_a_one(batch)
    y, times = run(counts, experts, x, batch)
    assert set(times.tolist()) == {e}
    torch.testing.assert_close(y, ffn(experts, next(iter(counts)), x), rtol=1e-12, atol=1e-12)


def loss_and_gradients(model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    loss = mean_loss(model, batch)[0]
    gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return loss, dict(zip([path for path, _ in model.named_parameters()], gradients, strict=True))


def without_modality(path: str) -> str:
    """The name in the dense model of a parameter of a mixture of transformers."""
    path = path.replace("groups.text.", "groups.all.").replace("groups.image.", "groups.all.")
    return path.removesuffix(".text").removesuffix(".image")


@pytest.mark.parametrize("placement", ["swin", "pre"])
@pytest.mark.parametrize("qk_norm", ["rms", "layer"])
def test_a_mixture_of_equal_transformers_is_dense(placement, qk_norm):
    """And the gradients of the modalities add up to those of the one weight."""
    shape = {"placement": placement, "qk_norm": qk_norm, "document_mask": True, "dtype": torch.float64}
    dense, mot = shaken(make_model({"all": 1}, **shape)), make_model({"all": 1}, untie=EVERYTHING, **shape)
    weights = dict(dense.named_parameters())
    with torch.no_grad():
        for path, p in mot.named_parameters():
            p.copy_(weights[without_modality(path)])
    batch = make_batch(2, (9, 8))
    (a, wanted), (b, mine) = loss_and_gradients(dense, batch), loss_and_gradients(mot, batch)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    sums = {path: torch.zeros_like(g) for path, g in wanted.items()}
    for path, g in mine.items():
        sums[without_modality(path)] += g
    for path, g in wanted.items():
        torch.testing.assert_close(sums[path], g, rtol=1e-10, atol=1e-10, msg=lambda text, path=path: f"{path}: {text}")


def test_untying_the_ffn_alone_is_an_expert_for_each_modality():
    """The same names, the same initial weights and the same losses, to the last digit."""
    losses = []
    for name in ("mot_ffn_only", "moe_1t1i"):
        model, _ = build(name)
        optimizer, batch = build_optimizer(model, composed(name).optim), make_batch(2, (9, 8))
        paths = list(model.state_dict())
        for _ in range(3):
            loss = mean_loss(model, batch)[0]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append((loss.item(), paths))
    assert losses[:3] == losses[3:]


@pytest.mark.parametrize("placement", ["swin", "pre"])
@pytest.mark.parametrize("per_modality", [True, False])
@pytest.mark.parametrize("experts", [{"all": 1}, {"text": 1, "image": 1}, {"text": 4, "image": 4}], ids=str)
def test_depth_that_keeps_every_row_with_an_open_gate_is_no_depth(experts, per_modality, placement):
    shape = {"placement": placement, "document_mask": True, "layers": 3, "dtype": torch.float64}
    depth = DepthConfig(every=2, start=0, capacity=1.0, per_modality=per_modality)
    plain, mod = make_model(experts, **shape), make_model(experts, depth=depth, **shape)
    with torch.no_grad():
        shaken(plain).embedding.weight[:, 0] = 100  # layers move it by a few units
        mod.load_state_dict(plain.state_dict(), strict=False)
        for i in (0, 2):
            mod.blocks[i].depth_router.weight.zero_()[0, 0] = 1.0  # sigmoid(100) is 1 to the last digit
    batch = make_batch(4, (9, 8))
    (a, wanted), (b, mine) = loss_and_gradients(plain, batch), loss_and_gradients(mod, batch)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for path, g in mine.items():
        if "depth_router" in path:
            assert not g.any()  # the slope of a sigmoid so far out
        else:
            torch.testing.assert_close(g, wanted[path], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["moma_4t4i", "moma_3t5i", "moe_8x", "mot_text_moe4", "mod_moma_4t4i", "mod_moma_4t4i of_pool"]
)
def test_the_order_of_experts_does_not_matter(name):
    """Their weights and their rows of the router change places together."""
    (model, _), (permuted, _) = build(name), build(name)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for block in permuted.blocks:
            for group, w in block.experts.router.weight.items():
                order = torch.randperm(len(w), generator=generator)
                for p in (w, *block.experts.groups[group].parameters()):
                    p.copy_(p[order])
    batch = make_batch(4, (9, 8))
    torch.testing.assert_close(mean_loss(model, batch)[0], mean_loss(permuted, batch)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [None, DepthConfig(1, 0, 0.5, True)], ids=["plain", "in_depth"])
@pytest.mark.parametrize("untie", [(), EVERYTHING], ids=["tied", "untied"])
@pytest.mark.parametrize("experts", [{"all": 1}, {"text": 4, "image": 2}, {"text": 1, "image": 1, "shared": 1}], ids=str)
def test_every_backend_is_the_same_function(experts, untie, depth):
    batch, results = make_batch(4, (8, 8)), []
    for backend in ("reference", "bmm"):
        model = make_model(experts, backend=backend, untie=untie, depth=depth, dtype=torch.float64)
        results.append(loss_and_gradients(shaken(model), batch))
    (a, wanted), (b, mine) = results
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for path, g in wanted.items():
        torch.testing.assert_close(mine[path], g, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["triton", "grouped_mm"])
@pytest.mark.parametrize(
    ("experts", "untie", "depth"),
    [
        ({"text": 3, "image": 1}, EVERYTHING, None),
        ({"text": 1, "image": 1, "shared": 1}, (), DepthConfig(2, 0, 0.5, True)),
        ({"text": 2, "image": 2}, ("qkv",), DepthConfig(2, 0, 0.5, False)),
    ],
    ids=["untied", "shared_in_depth", "counts_on_the_device"],
)
def test_backends_that_do_not_multiply_in_float64(experts, untie, depth, backend):
    """In fp32, on the CPU: Triton's kernels in its interpreter."""
    batch = make_batch(4, (8, 8))

    def run(backend):
        return loss_and_gradients(shaken(make_model(experts, backend=backend, untie=untie, depth=depth)), batch)

    if depth is not None and not depth.per_modality and backend == "grouped_mm":
        with pytest.raises(ValueError, match="only the device knows"):
            run(backend)
        return
    (a, wanted), (b, mine) = run("reference"), run(backend)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for path, g in wanted.items():
        torch.testing.assert_close(mine[path], g, rtol=0, atol=1e-4 * max(1, float(g.abs().max())))
