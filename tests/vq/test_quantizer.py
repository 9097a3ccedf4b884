"""Quantizers: values, gradients and losses against plain loops, and settings that contradict each other."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vq.quantizer import Quantizer, build_quantizer
from tests.vq.quantizers import EMA, FSQ, PLAIN, SIM, config


def quantizer(base: dict[str, Any], **changed: Any) -> Quantizer:
    torch.manual_seed(0)
    built = build_quantizer(SimpleNamespace(codes=32, code_dim=2), config(base, **changed))
    built.begin(4.0, torch.randn(max(1, built.wants), 2), torch.Generator().manual_seed(0))
    return built


def vectors(seed: int = 1) -> Tensor:
    return (2 * torch.randn(5, 6, 2, generator=torch.Generator().manual_seed(seed))).requires_grad_()


ALL = pytest.mark.parametrize("base", [EMA, PLAIN, SIM, FSQ], ids=["ema", "plain", "sim", "fsq"])


@ALL
@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
def test_the_decoder_gets_the_nearest_code_and_so_does_the_trained_tokenizer(base: dict[str, Any], estimator: str) -> None:
    built, z = quantizer(base, estimator=estimator), vectors()
    choice = built(z)
    table = built.table()
    assert choice.codes.shape == (5, 6)
    assert len(choice.codes.unique()) > 3, "so that this can fail"
    torch.testing.assert_close(choice.vectors, table[choice.codes])
    assert torch.equal(table.nearest(z.detach().flatten(0, 1)).view(5, 6), choice.codes)
    (choice.vectors * torch.randn(5, 6, 2)).sum().backward()
    assert z.grad is not None
    assert (z.grad.abs().sum(dim=-1) > 0).all(), "every vector learns"


def test_the_loss_of_learned_codes_is_that_of_the_paper() -> None:
    built, z = quantizer(PLAIN, commitment_weight=0.25), vectors()
    choice = built(z)
    codes = built.codebook.codes  # type: ignore[attr-defined]
    places = list(itertools.product(range(5), range(6)))
    distances = [float((z[at] - codes[choice.codes[at]]).detach().square().sum()) for at in places]
    assert choice.loss.item() == pytest.approx(1.25 * sum(distances) / 30, rel=1e-5)
    choice.loss.backward()
    expected_z, expected_codes = torch.zeros(5, 6, 2), torch.zeros(32, 2)
    for n, at in itertools.product(range(5), range(6)):
        i = int(choice.codes[n, at])
        expected_z[n, at] = 0.25 * 2 * (z[n, at] - codes[i]).detach() / 30
        expected_codes[i] += 2 * (codes[i] - z[n, at]).detach() / 30
    torch.testing.assert_close(z.grad, expected_z)
    torch.testing.assert_close(codes.grad, expected_codes)


def test_codes_that_follow_by_ema_get_no_gradient() -> None:
    built = quantizer(EMA)
    assert list(built.parameters()) == []
    before = built.table().values
    z = vectors()
    found = built.uses(z, built(z).codes)
    assert found is not None
    built.update(found)
    assert not torch.equal(built.table().values, before)


def test_the_grid_has_every_combination_of_levels() -> None:
    built = quantizer(FSQ)
    grid = built.table().values
    assert len({tuple(row) for row in grid.tolist()}) == 32
    for d, levels in enumerate((4, 8)):
        torch.testing.assert_close(grid[:, d].unique(), torch.linspace(-1, 1, levels))
    z = vectors()
    for n, at in itertools.product(range(5), range(6)):
        v = torch.tanh(z[n, at])
        expected = [round((x + 1) / 2 * (levels - 1)) for x, levels in zip(v.tolist(), (4, 8), strict=True)]
        assert int(built(z).codes[n, at]) == expected[0] * 8 + expected[1]


@pytest.mark.parametrize(
    ("base", "changed", "message"),
    [
        (EMA, {"space": "cube"}, r"kind=ema: space=cube and levels are fsq's"),
        (SIM, {"first": "kmeans"}, r"first=kmeans: .*first=random"),
        (FSQ, {"space": "sphere"}, r"space=sphere: .*space=cube"),
        (FSQ, {"levels": (4, 4)}, r"levels=\[4, 4\]: make 16 codes of 2 numbers, .* codes=32 code_dim=2"),
        (FSQ, {"levels": (32, 1)}, r"levels are at least 2"),
        (FSQ, {"levels": ()}, r"levels=\[\]"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(base: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.quantizer\..*" + message):
        quantizer(base, **changed)
