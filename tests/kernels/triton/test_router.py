"""The router's kernels in Triton's interpreter: logits against float64, the plan against that of torch's path, to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from momafuse.kernels.triton.router import choose_rows, router_logits
from momafuse.routing import expert_choice
from momafuse.routing.expert_choice import ExpertChoice
from momafuse.routing.plan import groups_of
from tests.batches import make_batch, router_config

EXPERTS = [
    {"text": 4, "image": 4}, {"text": 3, "image": 1}, {"text": 1, "image": 2}, {"all": 8}, {"text": 2, "image": 2, "all": 1},
    {"text": 6, "image": 2, "shared": 1}, {"all": 3, "text": 2},
]  # fmt: skip
ULPS = 4 * 2.0**-24  # two ways to compute a sigmoid: an exponential, a sum and a quotient, half a last place each
AWKWARD = [0.0, -0.0, 1.0, -1.0, float("inf"), float("nan"), 1e-40, -1e-40, 3.4e38]


def router_of(experts, pool: int, factor: float, dim: int = 8) -> ExpertChoice:
    router = ExpertChoice(groups_of(experts, ("text", "image"), 4), dim, router_config(pool=pool, capacity_factor=factor))
    g = torch.Generator().manual_seed(1)
    for p in router.parameters():
        torch.nn.init.normal_(p, generator=g)
    return router


def plans(router: ExpertChoice, z: torch.Tensor, batch):
    """What torch's path and the kernel make of the same logits (T, E)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExpertChoice, "logits", lambda self, x: z)
        x = torch.empty(z.shape[0], 1, device=z.device)
        for in_one in (False, True):
            patch.setattr(expert_choice, "chooses_in_one", lambda z, rows, in_one=in_one: in_one)
            yield router(x, batch, None)


def check(router: ExpertChoice, z: torch.Tensor, batch) -> None:
    plain, mine = plans(router, z, batch)
    for name in ("rows", "offsets", "slots"):
        assert torch.equal(getattr(mine, name), getattr(plain, name)), name
        assert getattr(mine, name).dtype == getattr(plain, name).dtype
    torch.testing.assert_close(mine.weights, plain.weights, rtol=ULPS, atol=0, equal_nan=True)
    assert mine.sizes == plain.sizes


@settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # a smaller one costs minutes
@given(
    experts=st.sampled_from(EXPERTS),
    text=st.integers(0, 9),
    image=st.integers(0, 9),
    pools=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    factor=st.sampled_from([0.1, 1.0, 1.3, 8.0]),
    kind=st.sampled_from(["random", "few values", "all equal", "awkward"]),
    seed=st.integers(0, 99),
)
def test_the_plan_is_that_of_torchs_path(experts, text, image, pools, factor, kind, seed):
    if text + image == 0:
        return
    router = router_of(experts, pools[0], factor)
    batch = make_batch(pools[0] * pools[1], (text, image), seed=seed)
    g = torch.Generator().manual_seed(seed)
    shape = batch.modality.numel(), sum(x.experts for x in router.routed)
    z = torch.randn(shape, generator=g)
    if kind == "few values":
        z = z.round()
    elif kind == "all equal":
        z = torch.zeros(shape)
    elif kind == "awkward":
        z = torch.tensor(AWKWARD)[torch.randint(len(AWKWARD), shape, generator=g)]
    check(router, z, batch)


def test_gradients_of_gates_are_those_of_torchs_path():
    router, batch = router_of({"text": 3, "image": 1}, 2, 1.0), make_batch(4, (20, 12))
    found = []
    for in_one in (False, True):
        z = torch.randn(4 * 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        plan = list(plans(router, z, batch))[in_one]
        (plan.weights * torch.linspace(-1, 1, plan.weights.numel())).sum().backward()
        found.append(z.grad)
    assert torch.equal(found[0] == 0, found[1] == 0)
    torch.testing.assert_close(*found, rtol=4 * ULPS, atol=1e-9)  # 1 - gate loses what a gate near 1 holds


@settings(max_examples=15)
@given(st.integers(1, 300), st.integers(1, 70), st.integers(1, 17), st.sampled_from([torch.float32, torch.float16]))
def test_logits_and_their_gradients_are_as_exact_as_fp32(t, d, e, dtype):
    g = torch.Generator().manual_seed(t)
    x = torch.randn(t, d, generator=g).to(dtype).requires_grad_()
    w = torch.randn(e, d, generator=g).requires_grad_()
    dz = torch.randn(t, e, generator=g)
    z = router_logits(x, w)
    assert z.dtype == torch.float32
    dx, dw = torch.autograd.grad(z, (x, w), dz)
    xd, wd = x.detach().double(), w.detach().double()
    eps = 2.0**-24
    for mine, exact, size in (
        (z, xd @ wd.t(), xd.abs() @ wd.abs().t()),
        (dw, dz.double().t() @ xd, dz.double().abs().t() @ xd.abs()),
        (dx, dz.double() @ wd, dz.double().abs() @ wd.abs()),
    ):
        rounding = eps if mine.dtype == torch.float32 else 2.0**-11
        bound = (d + t + e) * eps * size + rounding * exact.abs() + 1e-7 * (mine.dtype == torch.float16)  # n roundings of sums
        assert ((mine.double() - exact).abs() <= bound).all()


def test_rows_that_lie_apart_are_read_where_they_lie():
    x = torch.randn(40, 30)[:, 5:25]
    w = torch.randn(4, 20)
    torch.testing.assert_close(router_logits(x, w), x @ w.t(), rtol=1e-5, atol=1e-5)


def test_ops_keep_to_the_rules_of_torch():
    x, w = torch.randn(9, 6, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    torch.library.opcheck(torch.ops.momafuse.router_logits, (x, w))
    z, modality = torch.randn(8, 2, requires_grad=True), torch.zeros(8, dtype=torch.uint8)
    args = (z, modality, 2, [2, 2], [1, 1], [0, 4], [0, 1], [0, 4, 8], 2)
    rules = ("test_schema", "test_autograd_registration", "test_faketensor")  # the last one adds up outputs, of all dtypes
    torch.library.opcheck(choose_rows, args, test_utils=rules)

    def squares(z: torch.Tensor) -> torch.Tensor:
        return (choose_rows(z, *args[1:])[1] ** 2).sum()

    plain, compiled = (torch.autograd.grad(f(z), z)[0] for f in (squares, torch.compile(squares, backend="aot_eager")))
    assert torch.equal(plain, compiled)
    assert plain.count_nonzero() == 8


@pytest.mark.parametrize("kind", ["random", "few values"])
def test_a_pool_of_more_rows_than_are_written_at_a_time(kind):
    experts, budget = {"text": 3, "image": 2, "all": 1}, (900, 350)
    z = torch.randn(4 * sum(budget), 5, generator=torch.Generator().manual_seed(3))
    check(router_of(experts, 2, 1.0), z.round() if kind == "few values" else z, make_batch(4, budget))
