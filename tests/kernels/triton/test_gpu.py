"""What only a GPU can show: bf16, speed's preconditions (no waits, graphs), the same result every time.

TRITON_INTERPRET=0 python -m pytest -m gpu tests/kernels/triton          scripts/gpu_check.sh runs them
"""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn.utils import clip_grads_with_norm_

from momafuse.config.compose import compose
from momafuse.data.batch import begins_of
from momafuse.kernels import bmm
from momafuse.kernels import cross_entropy as losses
from momafuse.kernels.attention import Documents, attend, blocks, pairs
from momafuse.kernels.cross_entropy import cross_entropy
from momafuse.kernels.experts import apply_experts
from momafuse.kernels.linear import apply_linear, linear_reference
from momafuse.kernels.reference import experts_reference
from momafuse.kernels.triton.router import router_logits
from momafuse.kernels.weights import GroupWeights
from momafuse.parallel.compilation import apply_compile
from momafuse.routing.plan import Plan
from momafuse.training.guard import gradient_norm
from momafuse.training.losses import LossMeter, objective
from momafuse.training.optimizer import build_optimizer
from tests.batches import make_batch
from tests.kernels.triton import test_rotary as rotary
from tests.kernels.triton import test_router as routed
from tests.kernels.triton.test_interpreted import CASES, by_modality, in_double, leaves_of, ragged_case
from tests.members import MEMBERS, mean_loss, member

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=0 compiles the kernels"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
LARGE = [(704, [900, 0, 37, 211]), (1408, [1024]), (512, [300, 301])]  # (width, rows of each expert) of three groups
WHOLE = [(768, [900, 0, 37, 211]), (1408, [1024]), (512, [300, 301])]  # widths that bulk copies serve on Hopper


def on_gpu(x, plan, groups):
    def move(t):
        return t.detach().cuda().requires_grad_(t.requires_grad)

    gates = None if plan.weights is None else move(plan.weights)
    sizes = plan.sizes
    moved = Plan(plan.rows.cuda(), plan.offsets.cuda(), gates, plan.slots.cuda(), sizes)
    return move(x), moved, [GroupWeights(*map(move, g)) for g in groups]


def results(x, plan, groups, function):
    y = function(x, plan, groups)
    direction = torch.linspace(-1, 1, y.numel(), device=y.device, dtype=torch.float64).view_as(y).to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves_of(x, plan, groups), direction, materialize_grads=True)]


def triton(x, plan, groups):
    return apply_experts(x, plan, groups, "triton")


def reference(x, plan, groups):
    return experts_reference(x, plan.rows, plan.offsets, plan.weights, groups)


def error(mine, exact) -> float:
    return float((mine.double() - exact).norm() / exact.norm().clamp(min=1e-30))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n in CASES if n != "no place at all"])
def test_experts_agree_with_float64(name, dtype):
    case = on_gpu(*ragged_case(*CASES[name], padding=5, dtype=dtype))
    exact = results(*in_double(*case), reference)
    for mine, theirs in zip(results(*case, triton), exact, strict=True):
        if theirs.any():
            assert error(mine, theirs) < 8 * ROUNDING[dtype]
        else:
            assert not mine.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_maps_agree_with_float64(dtype):
    x, plan, weights = by_modality((700, 0, 333), 320, 448, dtype)
    x, weights = x.detach().cuda().requires_grad_(), [w.detach().cuda().requires_grad_() for w in weights]
    plan = Plan(plan.rows.cuda(), plan.offsets.cuda(), None, plan.slots.cuda(), None)
    y = apply_linear(x, plan, weights, "triton")
    doubles = [t.detach().double().requires_grad_() for t in (x, *weights)]
    exact = linear_reference(doubles[0], plan.rows, plan.offsets, doubles[1:])
    direction = torch.randn_like(y)
    mine = torch.autograd.grad(y, [x, *weights], direction)
    wanted = torch.autograd.grad(exact, doubles, direction.double(), materialize_grads=True)
    for a, b in zip([y, *mine], [exact, *wanted], strict=True):
        assert error(a, b) < 8 * ROUNDING[dtype] if b.any() else not a.any()  # sums of 700: 4 were too few in fp32


@pytest.mark.parametrize("shape", [LARGE, WHOLE], ids=["any width", "whole tiles"])
def test_bf16_is_no_further_from_float64_than_the_products_of_torch(shape):
    """The same plan through cuBLAS: output and every gradient, large products."""
    case = on_gpu(*ragged_case(shape, 512, 2048, padding=64, dtype=torch.bfloat16))
    x, plan, groups = case
    known = Plan(plan.rows[:-64], plan.offsets, plan.weights.detach()[:-64].requires_grad_(), plan.slots, tuple(
        n for _, counts in shape for n in counts
    ))  # fmt: skip
    exact = results(*in_double(x, known, groups), reference)
    ours = results(x, known, groups, triton)
    torchs = results(x, known, groups, reference)
    for mine, theirs, right in zip(ours, torchs, exact, strict=True):
        assert error(mine, right) <= 1.02 * error(theirs, right)


@pytest.mark.parametrize("by_head", [False, True])
def test_rotation_in_bf16_is_no_further_from_float64_than_torch_and_the_same_each_time(by_head):
    made = rotary.case(4, 300, 8, 4, 64, 2, by_head, dtype=torch.bfloat16, device="cuda")
    exact = rotary.results(rotary.passes, *rotary.in_double(*made))
    ours, torchs = (rotary.results(f, *made) for f in (rotary.in_one, rotary.passes))
    for mine, theirs, right in zip(ours, torchs, exact, strict=True):
        assert error(mine, right) <= 1.02 * error(theirs, right)
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(rotary.results(rotary.in_one, *made), ours, strict=True))


@pytest.mark.parametrize("by", ["blocks", "documents"])
@pytest.mark.parametrize(("keys", "width"), [(8, 64), (2, 64), (8, 128)])
def test_attention_is_no_further_from_float64_than_by_pairs_and_the_same_each_time(by, keys, width):
    g = torch.Generator(device="cuda").manual_seed(0)
    q, k, v = (torch.randn(2, 1000, h, width, generator=g, device="cuda").transpose(1, 2) for h in (8, keys, keys))
    span = torch.randint(9, (2, 1000), generator=g, device="cuda").sort(1).values
    direction = torch.randn(q.shape, generator=g, device="cuda")

    def found(dtype, mask):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        y = attend(*leaves, mask)
        return [y, *torch.autograd.grad(y, leaves, direction.to(dtype))]

    rounded = [x.bfloat16().double() for x in (q, k, v, direction)]
    q, k, v, direction = rounded
    exact = found(torch.float64, pairs(span, torch.float64))
    mask = blocks(span) if by == "blocks" else Documents(begins_of(span), span.shape[1])
    ours, theirs = found(torch.bfloat16, mask), found(torch.bfloat16, pairs(span, torch.bfloat16))
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert error(mine, right) <= 1.25 * error(other, right)  # both round the weights of rows, but not in the same places
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(found(torch.bfloat16, mask), ours, strict=True))


def test_the_loss_in_bf16_is_no_further_from_float64_than_torchs_passes_and_the_same_each_time():
    g = torch.Generator(device="cuda").manual_seed(0)
    logits = (3 * torch.randn(500, 12_287, generator=g, device="cuda")).bfloat16()
    targets = torch.randint(-1, 12_287, (500,), generator=g, device="cuda")
    weights = torch.rand(500, generator=g, device="cuda") * (targets >= 0)
    exact = cross_entropy(logits.double(), targets, weights.double(), 1e-5, True)
    ours = cross_entropy(logits.clone(), targets, weights, 1e-5, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "triton_serves", lambda x: False)
        torchs = cross_entropy(logits.clone(), targets, weights, 1e-5, True)
    for mine, theirs, right in zip(ours, torchs, exact, strict=True):
        assert error(mine, right) <= max(1.02 * error(theirs, right), ROUNDING[torch.float32])
    for _ in range(20):
        again = cross_entropy(logits.clone(), targets, weights, 1e-5, True)
        assert all(torch.equal(a, b) for a, b in zip(again, ours, strict=True))


def test_the_activation_in_bf16_is_no_further_from_float64_than_torchs_passes():
    g = torch.Generator(device="cuda").manual_seed(0)
    a, b, dh = (torch.randn(1000, 1408, generator=g, device="cuda").bfloat16() for _ in range(3))
    exact = [a.double().requires_grad_(), b.double().requires_grad_()]
    y = torch.nn.functional.silu(exact[0]) * exact[1]
    wanted = [y.detach(), *torch.autograd.grad(y, exact, dh.double())]

    def found():
        da, db, _ = bmm._slope(a, b, dh.clone())
        return [bmm._activated(a, b), da, db]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bmm, "triton_serves", lambda x: False)
        theirs = found()
    for mine, other, right in zip(found(), theirs, wanted, strict=True):
        assert error(mine, right) <= 1.02 * error(other, right)


def test_the_router_in_bf16_makes_the_plan_of_torchs_path_and_the_same_each_time():
    router = routed.router_of({"text": 4, "image": 4}, 4, 1.0, dim=1024).cuda()
    batch = make_batch(8, (2000, 2096)).to(torch.device("cuda"))  # pools of as many rows as one program holds
    x = torch.randn(8 * 4096, 1024, generator=torch.Generator().manual_seed(0)).cuda().bfloat16().requires_grad_()
    weight = torch.cat(list(router.weight.values())).detach()
    z = router_logits(x.detach(), weight)
    exact = x.detach().double() @ weight.double().t()
    assert error(z, exact) <= 4 * error(x.detach().float() @ weight.t(), exact) + ROUNDING[torch.float32]
    routed.check(router, z, batch)

    def found():
        plan = router(x, batch, None)
        up = torch.linspace(-1, 1, plan.weights.numel(), device="cuda")
        return plan.rows, plan.weights, *torch.autograd.grad((plan.weights * up).sum(), [x, *router.parameters()])

    first = found()
    assert all(torch.equal(a, b) for _ in range(20) for a, b in zip(found(), first, strict=True))


@pytest.mark.parametrize("shape", [LARGE, WHOLE], ids=["any width", "whole tiles"])
def test_results_are_the_same_in_each_of_20_runs(shape):
    case = on_gpu(*ragged_case(shape, 512, 2048, padding=64, dtype=torch.bfloat16))
    first = results(*case, triton)
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(results(*case, triton), first, strict=True))


@pytest.mark.parametrize("width", [64, 128], ids=["any width", "whole tiles"])
def test_forward_and_backward_are_one_cuda_graph(width):
    """The graph serves other sizes, too: they are read when it runs."""
    x, plan, groups = on_gpu(*ragged_case([(width, [40, 8, 16])], width, 64, dtype=torch.bfloat16))
    other, other_plan, _ = on_gpu(*ragged_case([(width, [5, 50, 9])], width, 64, dtype=torch.bfloat16, seed=1))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            results(x, plan, groups, triton)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(x, plan, groups, triton)
    with torch.no_grad():
        for mine, new in zip(
            (x, plan.rows, plan.offsets, plan.weights, plan.slots),
            (other, other_plan.rows, other_plan.offsets, other_plan.weights, other_plan.slots),
            strict=True,
        ):
            mine.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(captured, results(x, plan, groups, triton), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("words", [(m,) for m in MEMBERS] + [("mod_moma_4t4i", "model.depth.per_modality=false")], ids=str)
def test_a_warm_step_never_waits_for_the_device(words):
    model = member(*words).cuda()
    config = compose([f"+experiment={words[0]}", "size=micro", "data.image_share=0.5", *words[1:]]).config
    optimizer = build_optimizer(model, config.optim)
    host, meter = make_batch(4, (40, 24)).pinned(), _meter(model)

    def step():
        batch = host.to("cuda")
        loss, _ = model(batch, objective(batch, meter, config.objective, 64))
        loss.total.backward()
        norm = gradient_norm(model.parameters(), batch.tokens.device)
        clip_grads_with_norm_(model.parameters(), config.optim.grad_clip, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _meter(model) -> LossMeter:
    return LossMeter(model.modality_names, torch.arange(model.embedding.num_embeddings, device="cuda") % 2)


@pytest.mark.parametrize("name", ["moma_4t4i", "mot_text_moe4", "mod_moma_4t4i"])
def test_inductor_is_eager_but_for_rounding(name):
    def losses(compiled: bool) -> list[float]:
        model, found = member(name).cuda(), []
        if compiled:
            apply_compile(model, ragged=True)
        for i in range(3):
            loss, _ = mean_loss(model, make_batch(4, (40, 24), seed=i, first_sequence=4 * i).to("cuda"))
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
                    p.grad = None
            found.append(float(loss.detach()))
        return found

    assert losses(True) == pytest.approx(losses(False), abs=1e-4)
