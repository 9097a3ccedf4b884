"""Upcycling by its rules: which tensor becomes which, the same function where mathematics says so, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from momafuse.checkpoint import store
from momafuse.checkpoint.saving import Keep, Saver
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.checkpoint.upcycling import Origin, told_apart, trace, upcycle
from momafuse.config.compose import compose
from momafuse.config.schema import UpcyclingConfig
from momafuse.data.batch import Batch
from momafuse.errors import UserError
from momafuse.models.transformer import Transformer
from momafuse.parallel.sharding import fill
from momafuse.world import World
from tests.batches import make_batch
from tests.members import mean_loss, member

ALONE = World(0, 1, torch.device("cpu"), None, None)
PLAIN = UpcyclingConfig(optimizer="fresh", weight_noise=0.0, redraw=0.0, capacity_steps=0)
# seed, capacity factor that gives every row to each of its experts, model, the same of it
PAIRS = [
    ("dense", 1, "moe_1t1i", 1),
    ("dense", 1, "moma_4t4i", 4),
    ("dense", 1, "moe_8x", 8),
    ("dense", 1, "mot_ffn_only", 1),
    ("dense", 1, "mot", 1),
    ("moe_1t1i", 1, "mot", 1),
    ("moe_1t1i", 1, "moma_4t4i", 4),
    ("moe_1t1i", 1, "moma_6t2i", 2),
    ("moma_2t2i", 2, "moma_4t4i", 4),
    ("mot", 1, "mot_text_moe4", 4),
    ("mod_dense", 1, "mod_moma_4t4i", 4),
    ("mod_moe_1t1i", 1, "mod_moma_4t4i", 4),
]


def shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    return {path: tuple(p.shape) for path, p in model.named_parameters()}


@torch.no_grad()
def trained(experiment: str, *overrides: str) -> tuple[Transformer, AdamW]:
    """A member whose every weight, norms too, is unlike its first, with moments."""
    model = member(experiment, *overrides)
    optimizer = AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def saved(folder: Path, model: Transformer, optimizer: AdamW) -> StoredTensors:
    with Saver(folder, Keep(1), ALONE) as saver:
        saver.save(1, model, [optimizer], {"step": 1}, "a: 1\n")
    return StoredTensors(store.find(folder))


def logits(model: Transformer, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch, lambda hidden, head: hidden @ head.T)[0]


def upcycled(tensors: StoredTensors, experiment: str, *overrides: str, config: UpcyclingConfig = PLAIN) -> Transformer:
    model = member(experiment, *overrides)
    upcycle(model, AdamW(model.parameters()), tensors, config, 0, fill)
    return model


@pytest.mark.parametrize(("seed", "seed_factor", "experiment", "factor"), PAIRS)
def test_the_function_is_the_seeds_where_every_expert_takes_every_row(tmp_path, seed, seed_factor, experiment, factor, capsys):
    """Under swin the norm after the experts removes the sum of their gates, if its eps is 0."""
    batch = make_batch(4, (40, 24))
    exact, optimizer = trained(seed, "model.norm_eps=0", f"router.capacity_factor={seed_factor}")
    tensors = saved(tmp_path, exact, optimizer)
    model = upcycled(tensors, experiment, f"router.capacity_factor={factor}")
    for block in model.blocks:
        if block.experts.router is not None:
            block.experts.router.capacity_factor = 8  # or more than there are: all rows
        for m in block.modules():
            if hasattr(m, "eps"):
                m.eps = 0.0
    model.norm.eps = 0.0
    difference = (logits(model, batch) - logits(exact, batch)).abs().max()
    assert difference <= 1e-6

    real_seed = member(seed)
    real_seed.load_state_dict(exact.state_dict())
    real = upcycled(tensors, experiment)
    jump = float(mean_loss(real, batch)[0] - mean_loss(real_seed, batch)[0])
    real_difference = float((logits(real, batch) - logits(real_seed, batch)).abs().max())
    with capsys.disabled():
        what = f"largest difference of logits {real_difference:.1e}, loss {jump:+.4f} nats"
        print(f"\n{seed} -> {experiment}: eps 0, all rows: {difference:.1e}; eps 1e-5, capacity 1: {what}")
    if any(g.experts > 1 for g in model.groups):
        assert real_difference > 1e-3  # rows that nobody takes: if not, the model was not changed at all
    else:
        assert real_difference <= 1e-6


def test_rules_one_by_one():
    dense, moma = shapes(member("dense")), shapes(member("moma_4t4i"))
    origins = trace(moma, dense)
    assert set(origins) == set(moma)
    layer = "blocks.1.experts"
    assert origins[f"{layer}.groups.image.down"] == Origin(f"{layer}.groups.all.down", "tile", 4)
    assert origins[f"{layer}.router.weight.text"] == Origin(None, "fresh")
    assert origins["blocks.0.attention.qkv.weight"] == Origin("blocks.0.attention.qkv.weight", "copy")
    untied = trace(
        shapes(member("mot", "model.attention.qk_norm=layer")), shapes(member("dense", "model.attention.qk_norm=layer"))
    )
    assert untied["blocks.0.attention.q_norm.bias.text"] == Origin("blocks.0.attention.q_norm.bias", "untie")
    assert untied["blocks.0.ffn_norm.weight.image"] == Origin("blocks.0.ffn_norm.weight", "untie")
    assert untied["blocks.0.experts.groups.text.gate"] == Origin("blocks.0.experts.groups.all.gate", "copy")
    assert untied["norm.weight"] == Origin("norm.weight", "copy")
    more = trace(moma, shapes(member("moma_2t2i")))
    assert more[f"{layer}.router.weight.text"] == Origin(f"{layer}.router.weight.text", "tile", 2)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_each_modality_gets_the_norms_of_every_head(tmp_path, kind):
    words = [f"model.attention.qk_norm={kind}", "model.attention.qk_norm_per_head=true", "model.attention.n_kv_heads=1"]
    seed, optimizer = trained("dense", *words)
    model = upcycled(saved(tmp_path, seed, optimizer), "mot", *words)
    attention, own = model.blocks[1].attention, seed.blocks[1].attention
    for norm, of_seed, heads in ((attention.q_norm, own.q_norm, 2), (attention.k_norm, own.k_norm, 1)):
        assert of_seed.weight.shape == (heads, 16)
        for modality in ("text", "image"):
            assert torch.equal(norm.weight[modality], of_seed.weight)
            assert kind == "rms" or torch.equal(norm.bias[modality], of_seed.bias)
    batch = make_batch(4, (40, 24))
    assert float((logits(model, batch) - logits(seed, batch)).abs().max()) <= 1e-6
    plain = shapes(member("dense", *(word for word in words if "per_head" not in word)))
    with pytest.raises(UserError, match=r"attention\.k_norm\.weight is \(1, 16\), its source \(16,\)"):
        trace(shapes(seed), plain)


def test_copies_lie_side_by_side(tmp_path):
    seed, optimizer = trained("moma_2t2i")
    model = upcycled(saved(tmp_path, seed, optimizer), "moma_4t4i")
    for path in ("blocks.0.experts.groups.text.up", "blocks.1.experts.router.weight.image"):
        source = seed.get_parameter(path)
        assert torch.equal(model.get_parameter(path), source[[0, 0, 1, 1]])


def test_fresh_routers_are_those_of_a_model_from_scratch(tmp_path):
    model = upcycled(saved(tmp_path, *trained("moe_1t1i")), "moma_4t4i")
    path = "blocks.0.experts.router.weight.text"
    assert torch.equal(model.get_parameter(path), member("moma_4t4i").get_parameter(path))


def test_moments_follow_the_rules_of_the_weights(tmp_path):
    seed, optimizer = trained("moe_1t1i")
    tensors, model = saved(tmp_path, seed, optimizer), member("moma_4t4i")
    mine = AdamW(model.parameters())
    upcycle(model, mine, tensors, UpcyclingConfig("tiled", 0.0, 0.0, 0), 0, fill)
    path = "blocks.0.experts.groups.text.gate"
    of_seed, state = optimizer.state[seed.get_parameter(path)], mine.state[model.get_parameter(path)]
    assert torch.equal(state["exp_avg_sq"], of_seed["exp_avg_sq"].expand(4, -1, -1))
    assert torch.equal(state["exp_avg"], of_seed["exp_avg"].expand(4, -1, -1))
    assert state["step"] == 2
    assert not mine.state[model.get_parameter("blocks.0.experts.router.weight.text")]
    mean_loss(model, make_batch(4, (40, 24)))[0].backward()
    mine.step()


def test_noise_on_copies_is_a_share_of_the_weights_own_deviation():
    weight = 0.3 * torch.randn(1, 64, 96, generator=torch.Generator().manual_seed(0))
    made = told_apart(weight.repeat_interleave(4, 0), "groups.text.gate", UpcyclingConfig("fresh", 0.1, 0.0, 0), 5)
    assert float((made - weight).std()) == pytest.approx(0.03, rel=0.02)
    assert not torch.equal(made[0], made[1])
    again = told_apart(weight.repeat_interleave(4, 0), "groups.text.gate", UpcyclingConfig("fresh", 0.1, 0.0, 0), 5)
    assert torch.equal(made, again)


def test_the_same_hidden_columns_are_drawn_anew_in_all_three_projections():
    generator, config = torch.Generator().manual_seed(0), UpcyclingConfig("fresh", 0.0, 0.5, 0)
    changed = {}
    for name, shape, across in (("gate", (1, 64, 48), 1), ("up", (1, 64, 48), 1), ("down", (1, 48, 64), 2)):
        weight = 2 + 0.3 * torch.randn(shape, generator=generator)
        made = told_apart(weight.repeat_interleave(3, 0), f"groups.text.{name}", config, 5)
        changed[name] = (made != weight).any(across)
        mean_and_std = made.flatten(1).mean(1), made.flatten(1).std(1)
        torch.testing.assert_close(mean_and_std[0], torch.full((3,), 2.0), rtol=0.02, atol=0)
        torch.testing.assert_close(mean_and_std[1], torch.full((3,), 0.3), rtol=0.1, atol=0)
    assert (changed["gate"].sum(1) == 24).all()
    assert torch.equal(changed["gate"], changed["up"])
    assert torch.equal(changed["gate"], changed["down"])
    assert not torch.equal(changed["gate"][0], changed["gate"][1])


@pytest.mark.parametrize(
    ("seed", "experiment", "overrides", "message"),
    [
        ("moe_1t1i", "dense", [], r"blocks\.\*\.experts\.groups\.all\.gate \(1, 32, 48\) has no source \(2 layers\)"),
        ("moma_4t4i", "moma_6t2i", [], r"text\.gate is \(6, 32, 48\), its source \(4, 32, 48\)"),
        ("moma_4t4i", "moe_1t1i", [], r"is \(1, 32, 48\), its source \(4, 32, 48\)"),
        ("dense", "mod_dense", [], r"depth_router\.weight \(1, 32\) has no source"),
        ("mod_dense", "moma_4t4i", [], r"depth_router\.weight of the seed has no place"),
        ("mot", "moma_4t4i", [], r"attention\.qkv\.weight \(96, 32\) has no source.*and \d+ more"),
        ("dense", "moma_4t4i", ["model.width_share={image: 0.5}"], r"image\.gate is \(4, 32, 24\), its source \(1, 32, 48\)"),
        ("dense", "moma_4t4i", ["model.n_layers=3"], r"blocks\.\*\.attention\.qkv\.weight"),
        ("dense", "moma_4t4i", ["model.experts.shared=1"], r"groups\.shared\.gate \(1, 32, 48\) has no source"),
    ],
)
def test_what_a_seed_cannot_become_is_one_line(seed, experiment, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        trace(shapes(member(experiment, *overrides)), shapes(member(seed)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["upcycle="], "upcycle='': write the path"),
        (["upcycling.redraw=1"], r"upcycling\.redraw=1\.0: must be at least 0 and below 1"),
        (["upcycling.weight_noise=-1"], r"upcycling\.weight_noise=-1\.0: must not be negative"),
        (["upcycle=x", "upcycling.capacity_steps=5", "trainer.compile=true"], r"upcycling\.capacity_steps=5: every block"),
        (["model.norm_eps=0"], r"model\.norm_eps=0\.0: a row that no expert takes"),
    ],
)
def test_bad_values_are_one_line(words, message):
    with pytest.raises(UserError, match=message):
        compose(["+experiment=moma_4t4i", *words])


def test_noise_is_on_in_upcycled_runs_unless_the_config_says_otherwise():
    assert not compose(["+experiment=moma_4t4i"]).config.noisy
    assert compose(["+experiment=moma_4t4i", "upcycle=runs/seed"]).config.noisy
    assert not compose(["+experiment=moma_4t4i", "upcycle=runs/seed", "router.noise=false"]).config.noisy
    assert compose(["+experiment=moma_4t4i", "router.noise=true"]).config.noisy
