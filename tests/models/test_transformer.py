"""The decoder against an implementation that handles one token at a time, written here from the papers' equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from momafuse.config.compose import compose
from momafuse.models.context import visible
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from tests.batches import make_batch, make_model

EXPERTS = {
    "dense": {"all": 1},
    "moe_1t1i": {"text": 1, "image": 1},
    "moma_2t2i": {"text": 2, "image": 2},
    "moma_4t4i": {"text": 4, "image": 4},
    "moe_8x": {"all": 8},
}


def last_hidden(model: Transformer, batch) -> Tensor:
    return model(batch, lambda hidden, head: hidden)[0].view(*batch.shape, -1)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean() + 1e-5) * weight


def turn(x: Tensor, position: int) -> Tensor:
    """RoPE: the pair (x[i], x[i + K/2]) turned by position * theta ** (-2 i / K)."""
    half = len(x) // 2
    out = x.clone()
    for i in range(half):
        angle = torch.tensor(position * 10_000.0 ** (-2 * i / len(x)), dtype=torch.float32)  # the model's table is fp32
        c, s = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        out[i] = x[i] * c - x[i + half] * s
        out[i + half] = x[i] * s + x[i + half] * c
    return out


def attention_loop(a, x, document):
    """x (S, D) of one sequence."""
    s, d = x.shape
    heads, k_dim = a.heads, d // a.heads
    qkv = x @ a.qkv.weight.t()
    q, k, v = (qkv[:, i * d : (i + 1) * d].view(s, heads, k_dim) for i in range(3))
    rows = []
    for t in range(s):
        parts = []
        for h in range(heads):
            query = turn(rms(q[t, h], a.q_norm.weight), t)
            seen = [u for u in range(t + 1) if document is None or document[u] == document[t]]
            scores = torch.stack([query @ turn(rms(k[u, h], a.k_norm.weight), u) for u in seen]) / math.sqrt(k_dim)
            share = torch.exp(scores - scores.max())
            share = share / share.sum()
            parts.append(sum(share[i] * v[u, h] for i, u in enumerate(seen)))
        rows.append(torch.cat(parts) @ a.out.weight.t())
    return torch.stack(rows)


def experts_loop(experts, x, batch, groups):
    """x (T, D): expert choice per pool, then the weighted sum of the experts that took the row."""
    router, length, modality = experts.router, batch.shape[1], batch.modality.flatten().tolist()
    size = batch.shape[0] if router is None else router.pool
    y = [torch.zeros(x.shape[1], dtype=x.dtype) for _ in range(len(x))]
    for g in groups:
        w = experts.groups[g.name]
        for e in range(g.experts):
            for pool in range(batch.shape[0] // size):
                rows = range(pool * size * length, (pool + 1) * size * length)
                rows = [r for r in rows if modality[r] in g.modalities]
                if g.experts == 1:
                    taken = [(r, 1.0) for r in rows]
                else:
                    z = {r: x[r] @ router.weight[g.name][e] for r in rows}
                    count = int(len(rows) * router.capacity_factor / g.experts)
                    best = sorted(rows, key=lambda r: (-float(z[r].detach()), r))[:count]
                    taken = [(r, torch.sigmoid(z[r])) for r in best]
                for r, gate in taken:
                    a = x[r] @ w.gate[e]
                    y[r] = y[r] + gate * ((a * torch.sigmoid(a) * (x[r] @ w.up[e])) @ w.down[e])
    return torch.stack(y)


def model_loop(model, batch):
    b, s = batch.shape
    x = model.embedding.weight[batch.tokens.flatten()]
    for block in model.blocks:

        def attend(x, block=block):
            documents = batch.document.tolist() if model.config.attention.document_mask else [None] * b
            parts = [attention_loop(block.attention, x[i * s : (i + 1) * s], documents[i]) for i in range(b)]
            return torch.cat(parts)

        def norm(x, weight):
            return torch.stack([rms(row, weight) for row in x])

        if block.placement == "swin":
            h = x + norm(attend(x), block.attention_norm.weight)
            x = h + norm(experts_loop(block.experts, h, batch, model.groups), block.ffn_norm.weight)
        else:
            h = x + attend(norm(x, block.attention_norm.weight))
            x = h + experts_loop(block.experts, norm(h, block.ffn_norm.weight), batch, model.groups)
    return torch.stack([rms(row, model.norm.weight) for row in x])


@pytest.mark.parametrize("experts", EXPERTS.values(), ids=EXPERTS)
@pytest.mark.parametrize(("placement", "masked"), [("swin", False), ("pre", True)])
def test_every_member_agrees_with_loops_over_tokens(experts, placement, masked):
    model = make_model(experts, dim=8, ffn=12, placement=placement, document_mask=masked, pool=2, dtype=torch.float64)
    batch = make_batch(2, (4, 5))
    hidden = last_hidden(model, batch).flatten(0, 1)
    expected = model_loop(model, batch)
    torch.testing.assert_close(hidden, expected, rtol=1e-10, atol=1e-10)
    direction = torch.linspace(-1, 1, hidden.numel(), dtype=torch.float64).view_as(hidden)
    parameters = [p for name, p in model.named_parameters() if name != "head.weight"]
    mine = torch.autograd.grad(hidden, parameters, direction)
    wanted = torch.autograd.grad(expected, parameters, direction)
    for a, b in zip(mine, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("experts", [EXPERTS["dense"], EXPERTS["moe_1t1i"]], ids=["dense", "moe_1t1i"])
def test_dense_and_by_modality_are_causal(experts):
    model = make_model(experts, dtype=torch.float64)
    batch = make_batch(2, (10, 10))
    changed = make_batch(2, (10, 10))
    changed.tokens[:, 15:] = (changed.tokens[:, 15:] + 2) % 64  # another id of the same modality: ids go by two
    a, b = last_hidden(model, batch), last_hidden(model, changed)
    torch.testing.assert_close(a[:, :15], b[:, :15], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(a[:, 15:], b[:, 15:])
    assert not model.routes


@pytest.mark.parametrize("name", ["moma_2t2i", "moma_4t4i", "moe_8x"])
def test_expert_choice_sees_the_future(name):
    model = make_model(EXPERTS[name], dtype=torch.float64)
    batch, changed = make_batch(2, (10, 10)), make_batch(2, (10, 10))
    changed.tokens[:, 15:] = (changed.tokens[:, 15:] + 2) % 64
    assert not torch.allclose(last_hidden(model, batch)[:, :15], last_hidden(model, changed)[:, :15])
    assert model.routes


def test_a_document_mask_separates_documents():
    model = make_model({"all": 1}, document_mask=True, dtype=torch.float64)
    batch, changed = make_batch(1, (10, 10)), make_batch(1, (10, 10))
    first = batch.document[0] == 0
    assert first.any()
    assert not first.all()
    changed.tokens[0, first] = (changed.tokens[0, first] + 2) % 64
    a, b = last_hidden(model, batch)[0], last_hidden(model, changed)[0]
    torch.testing.assert_close(a[~first], b[~first], rtol=1e-12, atol=1e-12)
    assert visible(torch.tensor([[0, 0, 1]])).tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]


def test_three_modalities_are_nothing_special():
    model = make_model({"text": 2, "image": 2, "speech": 1}, modalities=("text", "image", "speech"), dtype=torch.float64)
    batch = make_batch(2, (4, 5, 3), vocabulary=63)
    torch.testing.assert_close(last_hidden(model, batch).flatten(0, 1), model_loop(model, batch), rtol=1e-10, atol=1e-10)


def test_initial_weights_follow_the_path_and_the_seed():
    a, b = make_model({"text": 2, "image": 2}), make_model({"text": 2, "image": 2}, layers=3)
    for name, p in a.named_parameters():
        assert torch.equal(p, dict(b.named_parameters())[name]), name
    c = make_model({"text": 2, "image": 2}, seed=1)
    assert not torch.equal(a.blocks[0].attention.qkv.weight, c.blocks[0].attention.qkv.weight)
    assert not torch.equal(a.blocks[0].attention.qkv.weight, a.blocks[1].attention.qkv.weight)
    stds = {name: float(p.std()) for name, p in make_model({"text": 2, "image": 2}, dim=64, ffn=96).named_parameters()}
    assert stds["embedding.weight"] == pytest.approx(1.0, rel=0.05)
    assert stds["blocks.0.experts.groups.text.gate"] == pytest.approx(64**-0.5, rel=0.05)
    assert stds["blocks.0.experts.groups.text.down"] == pytest.approx(64**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("size", "experiment", "millions"),
    [
        ("90m", "dense", 92.3),
        ("435m", "dense", 436),
        ("1_4b", "dense", 1476),
        ("90m", "moma_4t4i", 209.7),
        ("435m", "moe_8x", 1845),
        ("1_4b", "moma_4t4i", 7113),
    ],
)
def test_sizes_have_the_papers_parameters_on_the_meta_device(size, experiment, millions):
    config = compose([f"+experiment={experiment}", f"size={size}", "model.ffn_multiple_of=1"]).config
    with torch.device("meta"):
        model = Transformer(config.model, config.router, vocabulary_size=65_536, modality_names=("text", "image"))
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=0.005)


def test_a_step_of_every_backend_gives_the_same_loss():
    batch = make_batch(4, (8, 8))
    targets = batch.targets.flatten()
    weights = torch.full(targets.shape, 1 / int((targets >= 0).sum()))
    losses = [
        make_model({"text": 4, "image": 2}, backend=backend, dtype=torch.float64)(
            batch, lambda h, w: next_token(h, w, targets, weights, 1e-5).total
        )[0].item()
        for backend in ("reference", "bmm")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_initialise_leaves_no_parameter_out():
    model = make_model({"text": 2, "image": 1})
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float("nan"))
    initialise(model, 0)
    assert all(torch.isfinite(p).all() for p in model.parameters())
