"""Mixed precision on one device: what is rounded, and what is not."""

from __future__ import annotations

import pytest
import torch

from momafuse.errors import UserError
from momafuse.parallel.precision import apply_precision, resolve_device, resolve_precision
from momafuse.routing import routers
from tests.batches import make_batch, make_model


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


@pytest.mark.parametrize("untie", [(), ("qkv", "out", "norms", "ffn")])
def test_every_weight_follows_the_rows(untie):
    """A weight that stayed fp32 would make its product fp32 and be seen in the last rows, or fail."""
    model = make_model({"all": 1}, untie=untie, n_kv_heads=1, qk_norm="layer")
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
