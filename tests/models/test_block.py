"""A block's document mask and dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momafuse.config.schema import DepthConfig
from momafuse.data.batch import Batch
from momafuse.kernels.attention import pairs
from momafuse.models.transformer import Transformer
from tests.batches import make_batch, make_model
from tests.models.zoo import EVERYTHING

HALF = DepthConfig(every=1, start=0, capacity=0.5, per_modality=True)


def hidden_rows(model: Transformer, batch: Batch) -> Tensor:
    return model(batch, lambda hidden, head: hidden)[0].view(*batch.shape, -1)


@pytest.mark.parametrize("untie", [(), EVERYTHING], ids=["dense", "mot"])
def test_a_document_mask_separates_documents(untie):
    model = make_model({"all": 1}, document_mask=True, untie=untie, dtype=torch.float64)
    batch, changed = make_batch(1, (10, 10)), make_batch(1, (10, 10))
    first = batch.document[0] == 0
    assert first.any()
    assert not first.all()
    changed.tokens[0, first] = (changed.tokens[0, first] + 2) % 64
    a, b = hidden_rows(model, batch)[0], hidden_rows(model, changed)[0]
    torch.testing.assert_close(a[~first], b[~first], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(a[first], b[first])


def test_a_row_sees_itself_and_earlier_rows_of_its_span():
    assert (pairs(torch.tensor([[0, 0, 1]]), torch.float32) == 0).tolist() == [
        [[[True, False, False], [True, True, False], [False, False, True]]]
    ]
    assert (pairs(torch.tensor([[1, 0, 1]]), torch.float32) == 0).tolist() == [
        [[[True, False, False], [False, True, False], [True, False, True]]]
    ]


@pytest.mark.parametrize("depth", [None, HALF], ids=["plain", "in_depth"])
def test_dropout_is_on_in_training_and_off_in_evaluation(depth):
    shape = {"placement": "pre", "depth": depth, "dtype": torch.float64}
    model, plain = make_model({"all": 1}, dropout=0.1, **shape), make_model({"all": 1}, **shape)
    batch = make_batch(2, (8, 8))
    torch.manual_seed(0)
    first, second = hidden_rows(model, batch), hidden_rows(model, batch)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(hidden_rows(model, batch), first)
    model.eval()
    assert torch.equal(hidden_rows(model, batch), hidden_rows(plain, batch))


def test_dropout_follows_attention_and_experts_and_keeps_the_mean():
    """One layer where attention writes 1 and experts write 2 to every channel: what is added takes four values, each with
    its probability, and 3 on average."""
    model = make_model({"all": 1}, placement="pre", dropout=0.25, layers=1, dim=16, dtype=torch.float64)
    block, batch = model.blocks[0], make_batch(64, (8, 8))
    block.attention.forward = lambda x, context: torch.ones_like(x)
    block.experts.forward = lambda x, context, noise: (2 * torch.ones_like(x), None, None)
    context = model.recipe.context(batch, torch.zeros(2, 64, 1, 16, 4), None, torch.float32)
    torch.manual_seed(0)
    added, _ = block(torch.zeros(64, 16, 16, dtype=torch.float64), context, None)
    kept = 1 / 0.75  # what is kept grows by as much as is dropped
    n = added.numel()
    for value, share in {0: 1 / 16, kept: 3 / 16, 2 * kept: 3 / 16, 3 * kept: 9 / 16}.items():
        deviation = (share * (1 - share) / n) ** 0.5
        assert float(torch.isclose(added, torch.tensor(float(value)).double()).double().mean()) == pytest.approx(
            share, abs=4 * deviation
        )
    spread = kept * (0.25 * 0.75 * 5) ** 0.5  # of one channel: the two parts are independent
    assert float(added.mean()) == pytest.approx(3, abs=4 * spread / n**0.5)
