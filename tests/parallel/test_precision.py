"""Mixed precision on one device: what is rounded, when, and what is not."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from momafuse.errors import UserError
from momafuse.parallel.checkpointing import apply_activation_checkpointing
from momafuse.parallel.compilation import apply_compile
from momafuse.parallel.precision import Working, apply_precision, resolve_device, resolve_precision, working
from momafuse.routing import routers
from momafuse.routing.noise import logistic_noise
from momafuse.training.optimizer import freeze
from tests.batches import make_batch, make_model
from tests.members import MEMBERS, mean_loss, member

BF16 = torch.bfloat16
OWN_CASTS = ("router", "auxiliary", "embedding", "norm")  # parts of paths whose parameters have no working copy


def test_products_are_bf16_and_routers_fp32(monkeypatch):
    model = make_model({"text": 2, "image": 2})
    seen = {}
    logits = routers.logits

    def watch(x, weight):
        seen["x"], seen["router"] = x.dtype, weight.dtype
        result = logits(x, weight)
        seen["logits"] = result.dtype
        return result

    monkeypatch.setattr(routers, "logits", watch)
    apply_precision(model, torch.bfloat16)
    (hidden, head), decisions = model(make_batch(2, (6, 6)), lambda h, w: (h, w))
    assert hidden.dtype == head.dtype == torch.bfloat16
    assert decisions[0].experts.weights.dtype == torch.float32
    assert seen == {"x": torch.bfloat16, "router": torch.float32, "logits": torch.float32}
    hidden.float().square().sum().backward()
    for name, p in model.named_parameters():
        if name != "head.weight":
            assert p.grad is not None, name
            assert p.dtype == p.grad.dtype == torch.float32, name


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("untie", [(), ("qkv", "out", "norms", "ffn")])
def test_every_weight_follows_the_rows(untie, per_head):
    """A weight that stayed fp32 would make its product fp32 and be seen in the last rows, or fail."""
    model = make_model({"all": 1}, untie=untie, n_kv_heads=1, qk_norm="layer", qk_norm_per_head=per_head)
    apply_precision(model, torch.bfloat16)
    assert model(make_batch(2, (6, 6)), lambda h, w: h)[0].dtype == torch.bfloat16


def test_what_auto_means():
    cpu = torch.device("cpu")
    assert resolve_precision("bf16", cpu) == torch.bfloat16
    assert resolve_precision("fp32", torch.device("cuda")) == torch.float32
    assert resolve_precision("auto", torch.device("cuda")) == torch.bfloat16
    fast = {k for k, v in torch.cpu.get_capabilities().items() if v} & {"avx512_bf16", "amx_bf16"}
    assert resolve_precision("auto", cpu) == (torch.bfloat16 if fast else torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line():
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match=r"trainer\.device=cuda"):
        resolve_device("cuda")


def train(model, under: Working, micro_batches: int = 2, *, steps: int = 2, noisy: bool = False):
    """Losses, gradients after every micro-batch, an evaluation after every step, and the weights at the end."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=3e-2, fused=True)
    losses, gradients = [], []
    for step in range(steps):
        torch.manual_seed(step)
        with under():
            for i in range(micro_batches):
                batch = make_batch(4, (40, 24), seed=10 * step + i, first_sequence=4 * i)
                shape = {"layers": len(model.blocks), "experts": model.n_experts}
                loss, _ = mean_loss(model, batch, logistic_noise(batch, seed=0, step=step, **shape) if noisy else None)
                loss.backward()
                losses.append(float(loss.detach()))
                gradients.append([p.grad.clone() for p in learning])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.eval()
        with torch.no_grad(), under():
            losses.append(float(mean_loss(model, make_batch(4, (40, 24), seed=99))[0]))
        model.train()
    return losses, gradients, [p.detach().clone() for p in model.parameters()]


def assert_equal(one, other):
    assert one[0] == other[0]
    for mine, theirs in zip([*one[1], one[2]], [*other[1], other[2]], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype == b.dtype == torch.float32
            assert torch.equal(a, b)


def rounded(name: str, *words: str, mode: str = "none", learn: tuple[str, ...] = ("*",)):
    model = member(name, *words)
    freeze(model, learn)
    apply_precision(model, BF16)
    apply_activation_checkpointing(model, mode)
    return model


@pytest.mark.parametrize("name", MEMBERS)
def test_copies_once_a_step_change_no_digit(name):
    model = rounded(name)
    copies = working(model, BF16)
    assert_equal(train(model, copies), train(rounded(name), nullcontext))


OPTIONS = {
    "selective": (("moma_4t4i",), {"mode": "selective"}),
    "full": (("mod_moma_4t4i",), {"mode": "full"}),
    "untied, full": (("mot_text_moe4",), {"mode": "full"}),
    "dropout, full": (("moma_4t4i", "model.placement=pre", "model.dropout=0.1"), {"mode": "full"}),
    "experts learn": (("moma_4t4i",), {"learn": ("*.experts.groups.*",)}),
    "routers learn": (("moma_4t4i",), {"learn": ("*router*",)}),
    "LayerNorm, shared keys": (("mot", "model.attention.qk_norm=layer", "model.attention.n_kv_heads=1"), {}),
    "norms of heads": (("mot", "model.attention.qk_norm_per_head=true", "model.attention.n_kv_heads=1"), {}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_nor_with_options(option):
    words, how = OPTIONS[option]
    model = rounded(*words, **how)
    copies = working(model, BF16)
    assert_equal(train(model, copies, noisy=True), train(rounded(*words, **how), nullcontext, noisy=True))


class Casts(TorchDispatchMode):
    """Numbers of parameters' elements that were rounded, by the op."""

    def __init__(self, model) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()
        self.wide = {p.data_ptr() for path, p in model.named_parameters() if not any(part in path for part in OWN_CASTS)}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.wide and kwargs["dtype"] == BF16:
            self.made["module"] += args[0].numel()
        if func is torch.ops.aten._foreach_copy_.default:
            self.made["step"] += sum(x.numel() for x in args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["none", "full"])
def test_a_step_rounds_every_weight_once_and_a_run_what_is_frozen(mode):
    model = rounded("moma_4t4i", mode=mode, learn=("*.experts.*", "*router*"))
    wide = {path: p for path, p in model.named_parameters() if not any(part in path for part in OWN_CASTS)}
    learning = sum(p.numel() for p in wide.values() if p.requires_grad)
    copies = working(model, BF16)
    for expected in (sum(p.numel() for p in wide.values()), learning, learning):
        with Casts(model) as casts, copies():
            for _ in range(3):
                mean_loss(model, make_batch(4, (40, 24)))[0].backward()
        assert casts.made == {"step": expected}
    with Casts(model) as casts:
        mean_loss(model, make_batch(4, (40, 24)))[0].backward()
    assert casts.made["module"] >= sum(p.numel() for p in wide.values()), "without copies each micro-batch rounds"


def test_outside_the_model_has_its_own_parameters_whatever_happens_within():
    model = rounded("moma_4t4i")
    before, copies = dict(model.named_parameters()), working(model, BF16)
    held = []

    def interrupted() -> None:
        with copies():
            held.append(dict(model.named_parameters()))
            assert list(held[0]) == list(before), "paths stay"
            mean_loss(model, make_batch(4, (40, 24)))[0].backward()
            assert all(p.grad is None for path, p in held[0].items() if p is not before[path]), "no gradient stays with a copy"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = dict(model.named_parameters())
    assert all(after[path] is p and p.grad is not None for path, p in before.items())
    assert {path for path, p in held[0].items() if p.dtype == torch.float32} == {
        path for path in before if any(part in path for part in OWN_CASTS)
    }
    with torch.no_grad():
        after["head.weight"].add_(1.0)
    with copies():
        held.append(dict(model.named_parameters()))
        assert torch.equal(held[1]["head.weight"], after["head.weight"].to(BF16)), "made anew of what the weights are now"
    assert all(held[1][path] is p for path, p in held[0].items()), "the same tensors again"


def test_fp32_has_no_copies():
    model = member("dense")
    with working(model, torch.float32)():
        assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("name", ["dense", "mod_moma_4t4i", "mot"])
def test_nothing_is_compiled_again_for_copies(name, mode):
    """Across micro-batches, steps and evaluations; equal to the last digit to eager without copies."""
    torch._dynamo.reset()
    counters.clear()
    model = rounded(name, mode=mode)
    apply_compile(model, backend="aot_eager")
    copies, plain = working(model, BF16), rounded(name, mode=mode)
    assert_equal(train(model, copies, steps=1), train(plain, nullcontext, steps=1))
    assert not counters["graph_break"]
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_equal(train(model, copies), train(plain, nullcontext))
    torch._dynamo.reset()
