"""Mixed precision on one device: what is rounded, and what is not."""

from __future__ import annotations

import pytest
import torch

from momafuse.errors import UserError
from momafuse.parallel.precision import in_precision, resolve_device, resolve_precision
from momafuse.routing import routers
from tests.batches import make_batch, make_model


def test_products_are_bf16_and_routers_fp32(monkeypatch):
    model = make_model({"text": 2, "image": 2})
    seen = {}
    choose = routers.Router._choose

    def watch(self, x, batch, noise):
        seen["x"], seen["router"] = x.dtype, self.weight["text"].dtype
        result = choose(self, x, batch, noise)
        seen["gates"] = result["text"][1].dtype
        return result

    monkeypatch.setattr(routers.Router, "_choose", watch)
    hidden, _ = in_precision(model, torch.bfloat16)(make_batch(2, (6, 6)), lambda h, w: h)
    assert hidden.dtype == torch.bfloat16
    assert seen == {"x": torch.bfloat16, "router": torch.float32, "gates": torch.float32}
    hidden.float().square().sum().backward()
    for name, p in model.named_parameters():
        if name != "head.weight":
            assert p.grad is not None, name
            assert p.dtype == p.grad.dtype == torch.float32, name


def test_fp32_is_the_model_itself():
    model = make_model({"all": 1})
    assert in_precision(model, torch.float32) is model


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
