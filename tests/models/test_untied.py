"""Untied maps and norms: the weight called `weight.MODALITY` is that of the rows of this modality, in any order of names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from momafuse.models.linear import UntiedLinear
from momafuse.models.norms import Norm, UntiedNorm
from momafuse.routing.plan import Group, fixed_plan
from tests.batches import make_batch, make_model
from tests.models.loops import shaken

NAMES = [("text", "image"), ("image", "text"), ("text", "image", "speech")]


def fill(module: nn.Module) -> dict[str, float]:
    """A constant for each parameter, another one for each."""
    values = {path: float(i + 2) for i, (path, _) in enumerate(sorted(module.named_parameters()))}
    with torch.no_grad():
        for path, p in module.named_parameters():
            p.fill_(values[path])
    return values


def rows_of(names: tuple[str, ...], *more: int) -> tuple[Tensor, Tensor, list[str]]:
    """x (2, more, S, 4), the modality of each row as one_hot (2, S, M), and as names, row by row."""
    batch = make_batch(2, (3,) * len(names))
    x = torch.randn(2, *more, batch.shape[1], 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, nn.functional.one_hot(batch.modality.long()).bool(), [names[m] for m in batch.modality.flatten().tolist()]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_a_linear_map_takes_the_weight_of_each_rows_modality(names):
    module = UntiedLinear(4, 3, names, "auto").double()
    values = fill(module)
    x, _, modality = rows_of(names)
    plan = fixed_plan([Group(name, 1, (m,), 0) for m, name in enumerate(names)], make_batch(2, (3,) * len(names)))
    y = module(x, plan).flatten(0, 1)
    for row, name in enumerate(modality):
        torch.testing.assert_close(y[row], (x.flatten(0, 1)[row].sum() * values[f"weight.{name}"]).expand(3))


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("heads", [(), (5,)], ids=["rows", "heads"])
@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_a_norm_takes_the_scale_and_bias_of_each_rows_modality(names, heads, kind):
    module = UntiedNorm(4, 1e-5, names, kind).double()
    values = fill(module)
    x, one_hot, modality = rows_of(names, *heads)
    y = module(x, one_hot)
    for row, name in enumerate(modality):
        at = (row // one_hot.shape[1], ..., row % one_hot.shape[1], slice(None))
        centred = x[at] - (x[at].mean(-1, keepdim=True) if kind == "layer" else 0)
        expected = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * values[f"weight.{name}"]
        torch.testing.assert_close(y[at], expected + (values[f"bias.{name}"] if kind == "layer" else 0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
def test_heads_may_have_scales_and_biases_of_their_own(untied, kind):
    """Every number of every weight another one; row by row and head by head. There are as many heads as positions."""
    names, heads = ("text", "image"), 6
    x, one_hot, modality = rows_of(names, heads)
    assert x.shape == (2, heads, 6, 4)
    module = (UntiedNorm(4, 1e-5, names, kind, heads) if untied else Norm(4, 1e-5, kind, heads)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(heads, 4, generator=generator))
    y = module(x, one_hot)
    for row, name in enumerate(modality):
        for h in range(heads):
            at = (row // 6, h, row % 6)
            centred = x[at] - (x[at].mean() if kind == "layer" else 0)
            g, b = ((of[name] if untied else of) if of is not None else None for of in (module.weight, module.bias))
            expected = centred / torch.sqrt(centred.square().mean() + 1e-5) * g[h]
            torch.testing.assert_close(y[at], expected if b is None else expected + b[h], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_sequence_of_one_modality_touches_only_the_weights_with_its_name(modality):
    model = make_model({"all": 1}, untie=("qkv", "out", "norms", "ffn"), dtype=torch.float64)
    batch = make_batch(2, (8, 0) if modality == "text" else (0, 8))
    shaken(model)(batch, lambda hidden, head: hidden.square().sum())[0].backward()
    other = {"text": "image", "image": "text"}[modality]
    for path, p in model.named_parameters():
        if modality in path.split("."):
            assert p.grad is not None, path
            assert p.grad.any(), path
        elif other in path.split("."):
            assert p.grad is None or not p.grad.any(), path
