"""FLOPs by arithmetic: against a loop over tokens, against torch's counter on real models, and against the papers' parity."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from momafuse.config.compose import compose
from momafuse.config.schema import Config
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.parallel.checkpointing import apply_activation_checkpointing
from momafuse.reports.flops import forward_flops, recomputed_flops
from momafuse.reports.work import model_work
from tests.batches import make_batch
from tests.members import MEMBERS, mean_loss

NAMES = ("text", "image")
SIZES = ("90m", "435m", "1_4b")
HALVES = (2048, 2048)
BUDGET, SEQUENCES, IDS = (41, 23), 8, 64  # of the micro models that are run
PAPER = "model.ffn_multiple_of=1"  # expert widths as they are, not rounded up
DEPTH = "{every: 2, start: 0, capacity: 0.3, per_modality: true}"
OPTIONS = {  # members beyond those of configs/experiment: experiment, overrides
    "shared": ("moma_4t4i", ["model.experts={text: 4, image: 4, shared: 2}"]),
    "narrow": ("moma_4t4i", ["model.width_share={image: 0.3333}"]),
    "between": ("moe_8x", ["model.experts={all: 8, every: 2, start: 1}"]),
    "floors": ("moma_3t5i", ["router.capacity_factor=1.3", f"model.depth={DEPTH}"]),
    "grouped queries": ("moma_2t2i", ["model.attention.n_kv_heads=1", "model.attention.qk_norm=none"]),
    "untied norms": ("dense", ["model.untie=[norms]", "model.attention.qk_norm=layer", "model.placement=pre"]),
    "norms of heads": ("dense", ["model.untie=[norms]", "model.attention={n_kv_heads: 1, qk_norm_per_head: true}"]),
    "untied over depth": ("mot_text_moe4", [f"model.depth={DEPTH}"]),
    "paper's depth": ("mod_dense", ["model.depth.per_modality=false"]),
}


@cache
def configured(*words: str) -> Config:
    return compose(list(words)).config


def at_size(experiment: str, size: str, ffn_multiple_of: int) -> Config:
    """As `size=` makes it; composing every pair would take a minute."""
    config, shape = configured(f"+experiment={experiment}", "size=90m"), configured("+experiment=dense", f"size={size}").model
    dims = {name: getattr(shape, name) for name in ("dim", "n_layers", "n_heads", "ffn")}
    return replace(config, model=replace(config.model, ffn_multiple_of=ffn_multiple_of, **dims))


def flops(config: Config, budget: tuple[int, ...], ids: int) -> dict[str, float]:
    return forward_flops(config.model, model_work(config.model, config.router, NAMES, budget), ids)


def total(config: Config) -> float:
    """Of a sequence of 4,096 tokens, half of them text, with the papers' vocabulary."""
    assert config.data.sequence_length == sum(HALVES)
    return sum(flops(config, HALVES, 65_536).values())


def matched(experiment: str, size: str) -> str:
    return f"{size}_mod" if experiment.startswith("mod_") else size


@pytest.mark.parametrize("ffn_multiple_of", [1, 128])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("experiment", MEMBERS)
def test_every_member_costs_what_dense_of_its_size_costs(experiment: str, size: str, ffn_multiple_of: int) -> None:
    ours = total(at_size(experiment, matched(experiment, size), ffn_multiple_of))
    assert ours == pytest.approx(total(at_size("dense", size, ffn_multiple_of)), rel=0.03)


def test_sizes_are_composed_as_they_are_here() -> None:
    words = ["+experiment=mod_moma_4t4i", "size=1_4b_mod"]
    assert configured(*words).model == at_size("mod_moma_4t4i", "1_4b_mod", 128).model


def test_shared_and_narrow_groups_cost_what_they_are() -> None:
    dense = configured("+experiment=dense", "size=435m", PAPER)
    parts = flops(dense, HALVES, 65_536)
    experts = parts["experts.all"]
    for words, added in (
        (["model.experts={text: 4, image: 4, shared: 1}"], experts),  # every row once more
        (["model.experts={text: 4, image: 4}", "model.width_share={image: 0.5}"], -experts / 4),
        (["model.experts={all: 8}", "router.capacity_factor=2.0"], experts),
    ):
        config = configured("+experiment=moma_4t4i" if "text" in words[0] else "+experiment=moe_8x", "size=435m", PAPER, *words)
        routers = flops(config, HALVES, 65_536)["router"]
        assert total(config) - routers == pytest.approx(total(dense) + added, rel=1e-4)  # 0.5 * 2,730 is a whole width


def test_a_dense_layer_token_by_token() -> None:
    """One layer and the head, counted by a loop over multiply-adds."""
    config = configured("+experiment=dense", "size=micro", "model.n_layers=1", "model.attention.n_kv_heads=1")
    s, d, heads, width, ids = 256, 32, 2, 48, 99
    k = d // heads
    attention = projections = ffn = head = 0
    for i in range(s):
        projections += 2 * d * (heads * k + k + k) + 2 * d * d
        for _ in range(i + 1):
            attention += heads * (2 * k + 2 * k)
        ffn += 3 * 2 * d * width
        head += 2 * d * ids
    parts = flops(config, (128, 128), ids)
    assert {name: round(n * s) for name, n in parts.items()} == {
        "attention_projections": projections,
        "attention_scores": attention,
        "experts.all": ffn,
        "head": head,
    }


def test_a_token_that_is_passed_by_costs_nothing_and_is_no_key() -> None:
    """One layer that keeps 0.3 of each modality: floor(0.3 * 100) and floor(0.3 * 156) rows of a sequence."""
    words = ["model.n_layers=1", "model.depth={every: 1, start: 0, capacity: 0.3, per_modality: true}"]
    config = configured("+experiment=moma_4t4i", "size=micro", *words)
    parts = flops(config, (100, 156), 99)
    d, kept, pool, t = 32, (30, 46), 4, 256
    takes = [4 * kept[0] // 4, 4 * kept[1] // 4]
    assert {name: round(n * pool * t) for name, n in parts.items()} == {
        "attention_projections": pool * sum(kept) * 8 * d * d,
        "attention_scores": pool * sum(4 * d * (i + 1) for i in range(sum(kept))),
        "router": pool * sum(kept) * 2 * d * 8,
        "depth_router": pool * t * 2 * d,
        "experts.text": 4 * takes[0] * 6 * d * 48,
        "experts.image": 4 * takes[1] * 6 * d * 48,
        "head": pool * t * 2 * d * 99,
    }


def micro(name: str) -> Config:
    experiment, words = OPTIONS.get(name, (name, []))
    return configured(f"+experiment={experiment}", "size=micro", "data.image_share=0.5", *words)


def model_of(config: Config) -> Transformer:
    model = Transformer(config.model, config.router, vocabulary_size=IDS, modality_names=NAMES)
    initialise(model, 0)
    return model


def counted(name: str, mode: str = "none", *, fused: bool = False) -> tuple[dict[str, float], dict[str, int], dict[str, int]]:
    """FLOPs of a micro model on 8 sequences by our parts, and by torch's counter forward and backward."""
    config = micro(name)
    model = model_of(config)
    apply_activation_checkpointing(model, mode)
    batch = make_batch(SEQUENCES, BUDGET, IDS)
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH):
        with forward:
            loss, _ = mean_loss(model, batch)
        with backward:
            loss.backward()
    parts = {part: n * SEQUENCES * sum(BUDGET) for part, n in flops(config, BUDGET, IDS).items()}
    by_counter = [{str(op): n for op, n in c.get_flop_counts()["Global"].items()} for c in (forward, backward)]
    return parts, *by_counter


def full_attention(config: Config) -> float:
    """Scores and values of all pairs, which is what torch's counter counts. Rows kept of a whole pool are one sequence."""
    work = model_work(config.model, config.router, NAMES, BUDGET)
    depth, pools = config.model.depth, SEQUENCES // work.pool
    together = depth is not None and not depth.per_modality
    pairs = [(work.pool * at.span) ** 2 if together and at.depth else work.pool * at.span**2 for at in work.layers]
    return 4 * config.model.dim * pools * sum(pairs)


# What a capacity drops, and what is above a threshold, hangs on the rows: there ours is what is expected.
EXPECTED_ONLY = ("limoe_router", "moma_threshold")


@pytest.mark.parametrize("name", [name for name in (*MEMBERS, *OPTIONS) if name not in EXPECTED_ONLY])
def test_torch_counts_the_same(name: str) -> None:
    """Exactly, forward and backward: twice the forward, but for what has one gradient and for the head's two, which the loss
    makes in its forward. Torch counts attention over all pairs, ours only those that a token sees."""
    parts, forward, backward = counted(name)
    attention = full_attention(micro(name))
    experts = sum(n for part, n in parts.items() if part.startswith("experts") or part == "ffn_between")
    norms, head = parts.get("untied_norms", 0), parts["head"]
    ours = sum(parts.values()) - parts["attention_scores"] + attention
    assert sum(forward.values()) == round(ours + 2 * head)
    assert sum(backward.values()) == round(2 * (ours - head) - norms)
    assert sum(n for op, n in forward.items() if "experts_bmm" in op) == round(experts)
    assert forward["aten.bmm"] == round(attention)


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("name", ["moma_4t4i", "mot_text_moe4", "between", "floors"])
def test_what_checkpointing_computes_again(name: str, mode: str) -> None:
    """With the fused attention, which torch's counter does not know on a CPU."""
    parts, _, plain = counted(name, fused=True)
    _, _, checkpointed = counted(name, mode, fused=True)
    again = {part: n for part, n in parts.items() if part != "attention_scores"}
    assert sum(checkpointed.values()) - sum(plain.values()) == round(recomputed_flops(again, mode))
    assert recomputed_flops(parts, "none") == 0


def test_expected_counts_where_only_the_device_knows_them() -> None:
    """The paper's choice over all rows costs what the choice by modality costs, but for floors."""
    config = configured("+experiment=mod_moma_4t4i", "size=90m_mod")
    depth = config.model.depth
    assert depth is not None
    other = replace(config, model=replace(config.model, depth=replace(depth, per_modality=False)))
    works = [model_work(c.model, c.router, NAMES, HALVES) for c in (config, other)]
    assert [w.exact for w in works] == [True, False]
    assert total(other) == pytest.approx(total(config), rel=1e-6)


@torch.no_grad()
def test_the_kept_rows_are_those_that_the_routers_keep() -> None:
    """Work counted on the host against the plans of a real model, group by group."""
    config = micro("floors")
    work = model_work(config.model, config.router, NAMES, BUDGET)
    _, decisions = mean_loss(model_of(config), make_batch(SEQUENCES, BUDGET, IDS))
    pools = SEQUENCES // work.pool
    for layer, decision in zip(work.layers, decisions, strict=True):
        kept, plan = decision.kept, decision.experts
        rows = SEQUENCES * sum(BUDGET) if kept is None else kept.rows.numel()
        assert rows == sum(layer.rows) * pools
        assert plan is not None
        groups = zip(layer.groups, layer.places, strict=True)
        assert plan.sizes == tuple(places * pools for g, places in groups for _ in range(g.experts))
