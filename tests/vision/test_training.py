"""Training on pictures that a second suffices for: it learns, it repeats, and what it writes is what it measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from momafuse.errors import UserError
from momafuse.vision.augment import augment, to_bytes, to_unit
from momafuse.vision.autoencoder import Autoencoder
from momafuse.vision.config import VQConfig
from momafuse.vision.losses import pixel_loss, psnr, squared_error, ssim
from momafuse.vision.perceptual import Lite0
from momafuse.vision.pictures import PictureSet
from momafuse.vision.report import measure
from momafuse.vision.tokenizer import ImageTokenizer, save_tokenizer
from momafuse.vision.training import loss_of, train, train_vq
from momafuse.vq.training import schedule
from tests.vq.quantizers import FSQ, PLAIN, SIM, config


def test_training_writes_a_tokenizer_that_beats_the_mean_colour(tiny: VQConfig, squares: PictureSet, tmp_path: Path) -> None:
    steps: list[int] = []
    longer = dataclasses.replace(tiny, steps=300)
    trained, report = train_vq(longer, squares, tmp_path, lambda step, figures: steps.append(step))
    assert steps == list(range(1, 301))
    mean = squares.pictures[~squares.heldout].float().mean(dim=(0, 2, 3)).round().byte()
    flat = mean[None, :, None, None].expand(8, 3, 16, 16)
    baseline = float(psnr(squared_error(flat, squares.pictures[squares.heldout]).mean()))
    assert report.heldout.psnr_pooled > baseline + 3
    assert report.heldout.pictures == 8
    assert report.train.pictures == 72
    assert {kind: part.pictures for kind, part in report.heldout_by_kind.items()} == {"clip_art": 4, "emoji": 4}
    assert 1 < report.codes_used_train <= report.codes_used <= 32
    loaded = ImageTokenizer.load(str(tmp_path / "tiny.safetensors"))
    assert loaded.fingerprint == trained.fingerprint
    assert measure(loaded, squares) == report


def test_one_seed_gives_one_tokenizer_and_another_seed_another(tiny: VQConfig, squares: PictureSet) -> None:
    pictures = squares.pictures[~squares.heldout]
    (first, codes), (second, again) = train(tiny, pictures), train(tiny, pictures)
    other, _ = train(dataclasses.replace(tiny, seed=1), pictures)
    assert torch.equal(codes.values, again.values)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.encoder[1].weight, other.encoder[1].weight)


def test_schedule_warms_up_and_ends_near_zero(tiny: VQConfig) -> None:
    rates = [schedule(tiny, step) for step in range(tiny.steps)]
    assert rates[0] == pytest.approx(1 / 5)
    assert max(rates) <= 1
    assert rates[-1] < 0.01
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_variants_move_pixels_and_keep_their_colours() -> None:
    picture = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    picture[:, 6:9, 5:11] = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]
    variants = to_bytes(augment(picture.expand(400, 3, 16, 16), 3, 0.0, torch.Generator().manual_seed(0)))
    inked = (variants != 255).any(dim=1)
    assert (inked.sum(dim=(1, 2)) == 18).all()
    assert (variants.permute(0, 2, 3, 1)[inked] == torch.tensor([10, 20, 30])).all()
    tops, lefts = inked.any(dim=2).int().argmax(dim=1), inked.any(dim=1).int().argmax(dim=1)
    assert set(tops.tolist()) == set(range(3, 10)), "shifted by -3..3"
    assert set(lefts.tolist()) == set(range(2, 9)), "shifted by -3..3; its mirror image begins at the same column"


def test_colours_are_permuted_in_the_asked_share() -> None:
    picture = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    variants = to_bytes(augment(picture.expand(600, 3, 8, 8), 0, 0.5, torch.Generator().manual_seed(0)))
    orders = {tuple(row) for row in variants[:, :, 4, 4].tolist()}
    assert len(orders) == 6
    changed = (variants[:, 0, 4, 4] != 10).float().mean()
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
    weighed = loss_of(dataclasses.replace(tiny, architecture=big, perceptual_weight=0.5))
    with torch.no_grad():
        expected = pixel_loss(x, y) + 0.5 * Lite0().distance(x, y).mean()
        torch.testing.assert_close(weighed(x, y), expected)
    assert loss_of(tiny) is pixel_loss
    with pytest.raises(UserError, match=r"perceptual_weight=0\.5: .* at least 32 pixels"):
        loss_of(dataclasses.replace(tiny, perceptual_weight=0.5))


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
def test_what_another_quantizer_made_loads_and_is_its_own(
    base: dict[str, object], tiny: VQConfig, squares: PictureSet, tmp_path: Path
) -> None:
    made = dataclasses.replace(tiny, quantizer=config(base, estimator="rotation"))
    model, codes = train(made, squares.pictures[~squares.heldout])
    save_tokenizer(tmp_path / "made.safetensors", tiny.architecture, model, codes)
    loaded = ImageTokenizer.load(str(tmp_path / "made.safetensors"))
    with torch.no_grad():
        expected = codes.nearest(model.encode(to_unit(squares.pictures)).flatten(0, 1)).view(80, 4)
    found = loaded.encode(squares.pictures)
    assert float((found == expected).float().mean()) > 0.98, "weights are rounded to fp16"
    assert len(found.unique()) > 1


def test_the_grid_is_an_eighth(tiny: VQConfig) -> None:
    model = Autoencoder(tiny.architecture)
    vectors = model.encode(torch.randn(3, 3, 16, 16))
    assert vectors.shape == (3, 4, 4)
    assert model.decode(vectors).shape == (3, 3, 16, 16)
