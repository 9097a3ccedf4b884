"""QK-norm and rotary positions in Triton's interpreter, against a loop in float64: output and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import rms_norm

from momafuse.kernels.rotary import norm_rotate, rotate
from momafuse.models.context import rotary_table
from tests.batches import make_batch, make_model
from tests.models.loops import shaken

EPS = 1e-5
CASES = {  # B, S, queries, keys, K, scales, whether every head has its own
    "tied": (2, 9, 3, 3, 8, 1),
    "untied": (2, 9, 2, 2, 8, 2),
    "three modalities": (1, 40, 2, 1, 16, 3),
    "no norm": (2, 5, 2, 1, 8, 0),
    "grouped, odd halves": (3, 35, 4, 2, 10, 2),
    "by head": (2, 9, 3, 3, 8, 1, True),
    "by head, untied": (2, 35, 7, 3, 10, 2, True),  # more heads than a program takes
    "by head, grouped, three modalities": (1, 40, 2, 1, 16, 3, True),
}


def case(b, s, queries, keys, k, m, by_head=False, dtype=torch.float32, device="cpu"):
    g = torch.Generator().manual_seed(0)

    def randn(*size):
        return torch.randn(*size, generator=g).to(device, dtype).requires_grad_()

    heads = randn(b, s, queries + 2 * keys, k)  # with the values behind
    scales = [randn(*((n, k) if by_head else (k,))) for n in (queries, keys) for _ in range(m)]
    modality = torch.randint(max(m, 1), (b, s), generator=g).to(device, torch.uint8)
    position = torch.randint(99, (b, s), generator=g).to(device)
    return heads, queries, keys, scales, modality, rotary_table(position, k, 10_000.0)


def in_one(heads, queries, keys, scales, modality, table):
    m = len(scales) // 2
    return norm_rotate(heads[:, :, : queries + keys], queries, scales[:m], scales[m:], modality, table, EPS)


def passes(heads, queries, keys, scales, modality, table):
    """In torch's ops, as models/attention.py without the kernel."""
    m = len(scales) // 2
    q, k = heads[:, :, : queries + keys].transpose(1, 2).split([queries, keys], dim=1)
    one_hot = modality.unsqueeze(-1) == torch.arange(max(m, 1), device=modality.device)
    found = []
    for x, own in ((q, scales[:m]), (k, scales[m:])):
        if m:
            g = torch.stack(own).to(x.dtype).view(m, -1, x.shape[-1])  # (M, heads or 1, K)
            g = torch.einsum("bsm,mhk->bhsk", one_hot.to(x.dtype), g)
            x = rms_norm(x, x.shape[-1:], None, EPS) * g
        found.append(rotate(x, table))
    return tuple(found)


def loop(heads, queries, keys, scales, modality, table):
    """Row by row and head by head."""
    m = len(scales) // 2
    b, s, _, k = heads.shape
    rows = []
    for n in range(queries + keys):
        for i in range(b):
            for t in range(s):
                x = heads[i, t, n]
                if m:
                    own = scales[int(modality[i, t]) % m + (m if n >= queries else 0)]
                    own = own[n if n < queries else n - queries] if own.dim() > 1 else own
                    x = x / torch.sqrt(x.square().mean() + EPS) * own
                cos, sin = table[:, i, 0, t].to(x.dtype)
                left, right = x[: k // 2], x[k // 2 :]
                rows.append(torch.cat([left * cos - right * sin, left * sin + right * cos]))
    y = torch.stack(rows).view(queries + keys, b, s, k).transpose(0, 1)
    return y[:, :queries], y[:, queries:]


def results(function, heads, queries, keys, scales, *rest):
    q, k = function(heads, queries, keys, scales, *rest)
    directions = [torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view_as(y).to(y.dtype) for y in (q, k)]
    return [q, k, *torch.autograd.grad([q, k], [heads, *scales], directions)]


def in_double(heads, queries, keys, scales, modality, table):
    def double(t):
        return t.detach().double().requires_grad_()

    return double(heads), queries, keys, [double(w) for w in scales], modality, table


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_output_and_every_gradient(name, dtype):
    made = case(*CASES[name], dtype=dtype)
    atol, rtol = (2e-5, 1e-5) if dtype == torch.float32 else (1e-3, 1e-3)
    for mine, wanted in zip(results(in_one, *made), results(loop, *in_double(*made)), strict=True):
        assert mine.dtype == dtype
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(mine.double(), wanted, rtol=rtol, atol=atol * scale)


@pytest.mark.parametrize("name", CASES)
def test_the_loop_is_what_torch_computes(name):
    made = in_double(*case(*CASES[name]))
    for a, b in zip(passes(*made), loop(*made), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["untied", "no norm", "by head, untied"])
def test_the_op_keeps_to_the_rules_of_torch(name):
    heads, queries, keys, scales, modality, table = case(*CASES[name])
    x = heads.detach()[:, :, : queries + keys].requires_grad_()
    torch.library.opcheck(torch.ops.momafuse.norm_rotate.default, (x, queries, scales, modality, table, EPS))


@pytest.mark.parametrize("name", ["untied", "by head, untied"])
def test_frozen_scales_get_no_gradient_and_inputs_may_have_gaps(name):
    heads, queries, keys, scales, modality, table = case(*CASES[name])
    scales[1].requires_grad_(False)
    twice = (
        torch.stack([heads, heads], dim=1).flatten(1, 2)[:, ::2].detach().requires_grad_()
    )  # neighbours in B and S far apart
    q, k = in_one(twice, queries, keys, scales, modality, table)
    (q.sum() + k.sum()).backward()
    assert scales[1].grad is None
    assert all(w.grad is not None for i, w in enumerate(scales) if i != 1)
    wanted = in_one(twice.contiguous(), queries, keys, scales, modality, table)
    assert torch.equal(q, wanted[0])
    assert torch.equal(k, wanted[1])


def test_results_stand_by_row_and_gradients_may_come_in_any_layout():
    heads, queries, keys, *rest = case(*CASES["grouped, odd halves"])
    found = []
    for by_row in (True, False):
        q, k = in_one(heads, queries, keys, *rest)
        assert q.transpose(1, 2).is_contiguous()
        assert k.transpose(1, 2).is_contiguous()
        directions = [torch.linspace(-1, 1, y.numel()).view_as(y) for y in (q, k)]
        if by_row:
            directions = [d.transpose(1, 2).contiguous().transpose(1, 2) for d in directions]
        found.append(torch.autograd.grad([q, k], [heads, *rest[0]], directions))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_scales_of_heads_may_have_gaps():
    heads, queries, keys, scales, *rest = case(*CASES["by head, untied"])
    wanted = in_one(heads, queries, keys, scales, *rest)
    apart = [w.detach().t().contiguous().t() for w in scales]
    assert not apart[0].is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(in_one(heads, queries, keys, apart, *rest), wanted, strict=True))


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("untie", [(), ("norms",)])
def test_a_layer_computes_the_same_with_the_kernel_and_without(untie, per_head):
    found = []
    for backend in ("triton", "reference"):
        model = make_model({"all": 1}, heads=4, n_kv_heads=2, untie=untie, qk_norm_per_head=per_head, backend=backend)
        layer = shaken(model).blocks[0].attention
        seen = []
        layer.register_forward_hook(lambda module, args, y, seen=seen: seen.append(y))
        model(make_batch(2, (5, 4)), lambda hidden, head: hidden)
        names, parameters = zip(*layer.named_parameters(), strict=True)
        gradients = torch.autograd.grad(seen[0].square().sum(), parameters, materialize_grads=True)
        found.append({"y": seen[0].detach()} | dict(zip(names, gradients, strict=True)))
    assert len(found[0]) == 1 + 2 + 2 * (2 if untie else 1)
    for name, mine in found[0].items():
        torch.testing.assert_close(mine, found[1][name], rtol=1e-5, atol=1e-5, msg=name)


def test_nothing_is_kept_but_the_inputs():
    heads, queries, keys, scales, modality, table = case(*CASES["untied"])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        in_one(heads, queries, keys, scales, modality, table)
    inputs = {t.untyped_storage().data_ptr() for t in (heads, modality, table, *scales)}
    assert {t.untyped_storage().data_ptr() for t in kept} <= inputs
