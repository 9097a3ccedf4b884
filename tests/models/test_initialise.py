"""Initial weights follow the path and the seed; sizes have the papers' numbers of parameters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from momafuse.config.compose import compose
from momafuse.config.schema import DepthConfig
from momafuse.models import initialise as room
from momafuse.models.initialise import Held, generator, initialise
from momafuse.models.transformer import Transformer
from tests.batches import make_model
from tests.models.zoo import EVERYTHING

BOTH_2 = {"text": 2, "image": 2}


def test_initial_weights_follow_the_path_and_the_seed():
    a, b = make_model(BOTH_2), make_model(BOTH_2, layers=3)
    for name, p in a.named_parameters():
        assert torch.equal(p, dict(b.named_parameters())[name]), name
    c = make_model(BOTH_2, seed=1)
    assert not torch.equal(a.blocks[0].attention.qkv.weight, c.blocks[0].attention.qkv.weight)
    assert not torch.equal(a.blocks[0].attention.qkv.weight, a.blocks[1].attention.qkv.weight)


def drawn(shape: tuple[int, ...], held: Held) -> torch.Tensor:
    for draw in room._draws(torch.Size(shape), held, 3, "a.path", 0.5):
        draw()
    return held.local


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 4), st.data(), st.sampled_from([7, 16, 40, 1 << 20]))
def test_each_part_of_a_tensor_is_drawn_as_in_the_whole(shape, ranks, data, block):
    dim = data.draw(st.integers(0, len(shape) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "BLOCK", block)
        whole = drawn(shape, Held(torch.empty(shape), 0, 0))
        each, start = -(-shape[dim] // ranks), 0
        for part in torch.split(whole, each, dim):
            mine = drawn(shape, Held(torch.full(part.shape, torch.nan), dim, start))
            assert torch.equal(mine, part)
            start += each
        nothing = [*shape[:dim], 0, *shape[dim + 1 :]]
        assert drawn(shape, Held(torch.empty(nothing), dim, shape[dim])).numel() == 0  # a rank that padding is left for


def test_a_block_is_what_its_generator_draws(monkeypatch):
    """Block 0 has the key of the path, so that tensors of one block are what one call draws."""
    monkeypatch.setattr(room, "BLOCK", 32)
    found = drawn((7, 10), Held(torch.empty(7, 10), 0, 0)).view(-1)
    for number, key in enumerate(["a.path", "a.path:1", "a.path:2"]):
        size = min(32, 70 - 32 * number)
        expected = torch.empty(size).normal_(0, 0.5, generator=generator(3, key))
        assert torch.equal(found[32 * number : 32 * number + size], expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_weights_do_not_depend_on_threads(monkeypatch, threads):
    monkeypatch.setattr(room, "BLOCK", 100)
    monkeypatch.setattr(room, "threads", lambda: 2)
    expected = make_model(BOTH_2)
    monkeypatch.setattr(room, "threads", lambda: threads)
    for p, q in zip(make_model(BOTH_2).parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)


def test_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(room.os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    for processes, threads in (("1", 12), ("4", 3), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert room.threads() == threads


def test_numbers_are_normal_and_those_of_always():
    """Moments of four blocks, and a few numbers: a seed means the same weights for good."""
    x = drawn((4, room.BLOCK), Held(torch.empty(4, room.BLOCK), 0, 0)).double() / 0.5
    n = x.numel()
    assert abs(float(x.mean())) < 5 * n**-0.5
    assert abs(float(x.var()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float((x**4).mean()) - 3) < 5 * (96 / n) ** 0.5
    first = [1.02266, 1.75379, -1.22071, 0.00095, 1.12642, -0.48523, -0.38524, 0.35535]  # processors differ in the last places
    assert x[:, :2].flatten().tolist() == pytest.approx(first, abs=1e-5)


def test_what_a_thread_raises_is_raised(monkeypatch):
    monkeypatch.setattr(room, "_draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_model(BOTH_2)


@pytest.mark.parametrize(("placement", "stream", "writes"), [("swin", 1.0, 1.0), ("pre", 0.02, 0.5)])
def test_spreads_are_those_of_the_module(placement, stream, writes):
    """`writes`: two layers add four times to the stream, so that under pre its writers are 1 / sqrt(4)."""
    depth = DepthConfig(every=2, start=0, capacity=0.5, per_modality=True)
    model = make_model(
        BOTH_2, dim=64, ffn=96, untie=EVERYTHING, depth=depth, placement=placement, qk_norm="layer", qk_norm_per_head=True
    )
    assert model.blocks[0].attention.q_norm.bias["text"].shape == (2, 32)
    p = {path: q.detach() for path, q in model.named_parameters()}
    expected = {
        "embedding.weight": stream,
        "head.weight": 0.02,
        "blocks.0.depth_router.weight": 0.02,
        "blocks.0.experts.router.weight.text": 0.02,
        "blocks.1.attention.qkv.weight.image": 64**-0.5,
        "blocks.1.attention.out.weight.image": 64**-0.5 * writes,
        "blocks.0.experts.groups.text.gate": 64**-0.5,
        "blocks.0.experts.groups.text.down": 64**-0.5 * writes,
    }
    for path, std in expected.items():
        assert float(p[path].std()) == pytest.approx(std, rel=0.25 if p[path].numel() < 200 else 0.05), path
    for path, q in p.items():
        if "norm" in path:
            assert (q == (0.0 if ".bias" in path else 1.0)).all(), path
    assert not torch.equal(p["blocks.0.attention.qkv.weight.text"], p["blocks.0.attention.qkv.weight.image"])


@pytest.mark.parametrize(
    ("size", "experiment", "millions"),
    [
        ("90m", "dense", 92.3),
        ("435m", "dense", 436),
        ("1_4b", "dense", 1476),
        ("90m", "moma_4t4i", 209.7),
        ("435m", "moe_8x", 1845),
        ("1_4b", "moma_4t4i", 7113),
        ("90m_mod", "mod_dense", 111.1),
        ("435m_mod", "mod_dense", 637),
        ("1_4b_mod", "mod_dense", 2340),
        ("90m_mod", "mod_moma_4t4i", 316.6),
        ("435m_mod", "mod_moma_4t4i", 2986),
        ("1_4b_mod", "mod_moma_4t4i", 11850),
    ],
)
def test_sizes_have_the_papers_parameters_on_the_meta_device(size, experiment, millions):
    """MoMa, arXiv 2407.21770, Table 1, counted anew without rounding the width of the FFN."""
    config = compose([f"+experiment={experiment}", f"size={size}", "model.ffn_multiple_of=1"]).config
    with torch.device("meta"):
        model = Transformer(config.model, config.router, vocabulary_size=65_536, modality_names=("text", "image"))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize("modalities", [("text", "image"), ("text", "image", "speech")], ids=len)
def test_a_mixture_of_transformers_has_a_set_of_layers_for_each_modality(modalities):
    """MoT, arXiv 2411.04996: all but embeddings and head, and the last norm, times the number of modalities."""
    tied, mot = (
        {p: q.numel() for p, q in make_model({"all": 1}, modalities=modalities, untie=u).named_parameters()}
        for u in ((), EVERYTHING)
    )
    shared = {"embedding.weight", "head.weight", "norm.weight"}
    layers = sum(n for path, n in tied.items() if path not in shared)
    assert sum(mot.values()) == sum(tied[path] for path in shared) + len(modalities) * layers


def test_initialise_leaves_no_parameter_out():
    model = make_model({"text": 2, "image": 1}, untie=EVERYTHING, depth=DepthConfig(1, 0, 0.5, True), qk_norm="layer")
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float("nan"))
    initialise(model, 0)
    assert all(torch.isfinite(p).all() for p in model.parameters())
