"""The starter's networks: windows of attention against plain loops, and what reaches how far."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from momafuse.errors import UserError
from momafuse.vision.architectures import build
from momafuse.vision.autoencoder import HEAD, SHARPNESS, WindowAttention
from momafuse.vision.config import Architecture

ARCH = Architecture(32, 16, 4, (8, 32), (1, 1), (64, 8, 8), (4, 1, 0), decoder_window=2)


def attention(channels: int, window: int) -> WindowAttention:
    torch.manual_seed(0)
    layer = WindowAttention(channels, window).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return layer


def loop(layer: WindowAttention, x: Tensor) -> Tensor:
    """Place by place, head by head."""
    side, normed = layer.window, layer.norm(x)
    out = x.clone()
    for n in range(x.shape[0]):
        for top in range(0, x.shape[2], side):
            for left in range(0, x.shape[3], side):
                places = [(top + r, left + c) for r in range(side) for c in range(side)]
                rows = [layer.qkv.weight[:, :, 0, 0] @ normed[n, :, y, z] for y, z in places]
                heads = [row.view(3, layer.heads, HEAD) for row in rows]
                for i, (y, z) in enumerate(places):
                    found = []
                    for h in range(layer.heads):
                        scores = [
                            SHARPNESS * normalize(heads[i][0, h], dim=0) @ normalize(other[1, h], dim=0) + layer.places[h, i, j]
                            for j, other in enumerate(heads)
                        ]
                        weights = torch.stack(scores).softmax(0)
                        found.append(sum(weight * other[2, h] for weight, other in zip(weights, heads, strict=True)))
                    mixed = layer.mix.weight[:, :, 0, 0] @ torch.cat(found) + layer.mix.bias  # type: ignore[arg-type]
                    out[n, :, y, z] = x[n, :, y, z] + mixed
    return out


def test_attention_within_windows_is_that_of_a_loop() -> None:
    layer = attention(2 * HEAD, 2)
    x = torch.randn(2, 2 * HEAD, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), loop(layer, x))


def test_it_starts_as_if_it_were_not_there() -> None:
    x = torch.randn(1, HEAD, 4, 4)
    assert torch.equal(WindowAttention(HEAD, 4)(x), x)


def test_the_decoder_attends_after_every_second_block_and_the_encoder_never() -> None:
    names = {name.partition(".")[0] for name, m in build(ARCH).named_modules() if isinstance(m, WindowAttention)}
    assert names == {"decoder"}
    assert sum(isinstance(m, WindowAttention) for m in build(ARCH).modules()) == 2
    plain = dataclasses.replace(ARCH, decoder_window=0)
    assert not any(isinstance(m, WindowAttention) for m in build(plain).modules())


def test_larger_pictures_are_several_windows() -> None:
    model = build(ARCH).double().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    vectors = torch.randn(1, 64, 4, dtype=torch.float64)
    assert model.decode(vectors).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 40}, r"image_size=40: must be a multiple of 16 pixels, the side of a window"),
        ({"decoder_channels": (32, 8, 8)}, r"decoder_channels=\[32, 8, 8\]: the first must be a multiple of 64"),
    ],
)
def test_sizes_that_cannot_be(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(dataclasses.replace(ARCH, **changed))  # type: ignore[arg-type]
