"""Training pictures by number and their variants, losses, and what the weights file of another quantizer chooses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from momafuse.errors import UserError
from momafuse.vision.architectures import build
from momafuse.vision.augment import augment, to_bytes, to_unit
from momafuse.vision.autoencoder import Autoencoder
from momafuse.vision.config import VQConfig
from momafuse.vision.losses import psnr, squared_error, ssim
from momafuse.vision.perceptual import Lite0
from momafuse.vision.pictures import PictureSet
from momafuse.vision.tokenizer import ImageTokenizer, save_tokenizer
from momafuse.vision.training import TrainingPictures, losses_of
from momafuse.vq.order import Order
from momafuse.vq.quantizer import build_quantizer
from tests.vq.quantizers import FSQ, PLAIN, SIM, config


def test_the_same_number_is_the_same_picture_in_the_same_variant(tiny: VQConfig, squares: PictureSet) -> None:
    pictures = TrainingPictures(tiny, 3, Order(3, [80], [1]), Held(squares.pictures), None)
    batch = pictures.batch(range(70, 130))
    assert batch.shape == (60, 3, 16, 16)
    assert torch.equal(torch.cat([pictures.batch([n]) for n in range(70, 130)]), batch)
    other = TrainingPictures(tiny, 4, Order(4, [80], [1]), Held(squares.pictures), None).batch(range(70, 130))
    assert float((other != batch).any(dim=(1, 2, 3)).float().mean()) > 0.9


def test_the_asked_share_is_cut_from_pictures_twice_as_large(tiny: VQConfig) -> None:
    """Whole pictures are black; of the large ones, every pixel has the colour of its place."""
    whole = torch.zeros(10, 3, 16, 16, dtype=torch.uint8)
    place = torch.arange(32, dtype=torch.uint8)
    large = torch.stack([place[:, None].expand(32, 32) + 1, place[None, :].expand(32, 32) + 1, torch.full((32, 32), 9).byte()])
    how = dataclasses.replace(tiny, crop_share=0.4, max_shift=0, colour_share=0.0)
    pictures = TrainingPictures(how, 0, Order(0, [10], [1]), Held(whole), Held(large.expand(10, 3, 32, 32)))
    found = to_bytes(pictures.batch(range(600)))
    cut = found[:, 2, 8, 8] == 9
    assert 0.33 < float(cut.float().mean()) < 0.47
    corners = found[cut][:, :2].amin(dim=(2, 3)) - 1
    assert int(corners.max()) == 16
    assert int(corners.min()) == 0, "from everywhere"
    assert (found[cut][:, 0].amax(dim=(1, 2)) - found[cut][:, 0].amin(dim=(1, 2)) == 15).all(), "of the asked size"


class Held(NamedTuple):
    pixels: torch.Tensor

    @property
    def size(self) -> int:
        return int(self.pixels.shape[-1])

    def __getitem__(self, number: int) -> torch.Tensor:  # type: ignore[override]
        return self.pixels[number]


def variants(picture: torch.Tensor, count: int, max_shift: int, colour_share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([augment(picture, max_shift, colour_share, generator) for _ in range(count)])


def test_variants_move_pixels_and_keep_their_colours() -> None:
    picture = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    picture[:, 6:9, 5:11] = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]
    found = variants(picture, 400, 3, 0.0)
    inked = (found != 255).any(dim=1)
    assert (inked.sum(dim=(1, 2)) == 18).all()
    assert (found.permute(0, 2, 3, 1)[inked] == torch.tensor([10, 20, 30])).all()
    tops, lefts = inked.any(dim=2).int().argmax(dim=1), inked.any(dim=1).int().argmax(dim=1)
    assert set(tops.tolist()) == set(range(3, 10)), "shifted by -3..3"
    assert set(lefts.tolist()) == set(range(2, 9)), "shifted by -3..3; its mirror image begins at the same column"


def test_colours_are_permuted_in_the_asked_share() -> None:
    picture = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    found = variants(picture, 600, 0, 0.5)
    orders = {tuple(row) for row in found[:, :, 4, 4].tolist()}
    assert len(orders) == 6
    changed = (found[:, 0, 4, 4] != 10).float().mean()
    assert 0.25 < float(changed) < 0.42, "half are drawn, and a third of the orders keep the first channel"


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(every)), every)


def test_psnr_against_the_definition() -> None:
    first = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    second = first.clone()
    second[1] = 51
    error = squared_error(first, second)
    assert error.tolist() == pytest.approx([0.0, 0.04])
    assert psnr(error).tolist() == pytest.approx([99.0, 13.9794], abs=1e-3)


def test_features_weigh_what_they_are_asked_to(tiny: VQConfig) -> None:
    big = dataclasses.replace(tiny.architecture, image_size=32)
    x, y = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weighed = losses_of(dataclasses.replace(tiny, architecture=big, perceptual_weight=0.5))
    with torch.no_grad():
        found = weighed(x, y)
        torch.testing.assert_close(found["features"], 0.5 * Lite0().distance(x, y))
        expected = [((a - b).square().mean() + 1e-6).sqrt() for a, b in zip(x, y, strict=True)]
        torch.testing.assert_close(found["pixels"], torch.stack(expected))
    assert list(losses_of(tiny)(x, y)) == ["pixels"]
    with pytest.raises(UserError, match=r"perceptual_weight=0\.5: .* at least 32 pixels"):
        losses_of(dataclasses.replace(tiny, perceptual_weight=0.5))


def test_ssim_against_the_definition_at_every_place() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 13, 12), dtype=torch.uint8, generator=generator)
    y = (x.int() + torch.randint(-40, 40, x.shape, generator=generator)).clamp(0, 255).byte()
    weight = (
        torch.tensor([[-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2) for j in range(11)] for i in range(11)]).double().exp()
    )
    weight /= weight.sum()
    found = ssim(x, y)
    for n in range(2):
        every = []
        for c in range(3):
            for top in range(3):
                for left in range(2):
                    a, b = (p[n, c, top : top + 11, left : left + 11].double() / 255 for p in (x, y))
                    ma, mb = (weight * a).sum(), (weight * b).sum()
                    va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
                    cov = (weight * (a - ma) * (b - mb)).sum()
                    same = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
                    every.append(float(same))
        assert float(found[n]) == pytest.approx(sum(every) / len(every), abs=1e-10)
    assert ssim(x, x).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("base", [PLAIN, SIM, FSQ | {"levels": (2, 2, 2, 4)}], ids=["plain", "sim", "fsq"])
def test_codes_of_another_quantizer_are_chosen_alike_from_its_file(
    base: dict[str, object], tiny: VQConfig, squares: PictureSet, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, quantizer = build(tiny.architecture), build_quantizer(tiny.architecture, config(base))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    quantizer.begin(4.0, torch.randn(64, 4), torch.Generator().manual_seed(0))
    save_tokenizer(tmp_path / "made.safetensors", tiny.architecture, model, quantizer.table())
    loaded = ImageTokenizer.load(str(tmp_path / "made.safetensors"))
    with torch.no_grad():
        expected = quantizer(model.encode(to_unit(squares.pictures))).codes
    found = loaded.encode(squares.pictures)
    assert float((found == expected).float().mean()) > 0.98, "weights are rounded to fp16"
    assert len(found.unique()) > 1


def test_the_grid_is_an_eighth(tiny: VQConfig) -> None:
    model = Autoencoder(tiny.architecture)
    vectors = model.encode(torch.randn(3, 3, 16, 16))
    assert vectors.shape == (3, 4, 4)
    assert model.decode(vectors).shape == (3, 3, 16, 16)
