"""The frozen tokenizer: shapes, independence of the batch, its file, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from momafuse.errors import UserError
from momafuse.vision.pictures import PictureSet
from momafuse.vision.tokenizer import CHUNK, ImageTokenizer


def random_pictures(count: int, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_shapes_and_ranges(weights: Path) -> None:
    tokenizer = ImageTokenizer.load(str(weights))
    assert (tokenizer.name, tokenizer.codes, tokenizer.image_size, tokenizer.block) == ("tiny", 32, 16, 4)
    for count in (0, 1, CHUNK, CHUNK + 3):
        codes = tokenizer.encode(random_pictures(count))
        assert codes.shape == (count, 4)
        assert codes.dtype == torch.int64
        pictures = tokenizer.decode(codes)
        assert pictures.shape == (count, 3, 16, 16)
        assert pictures.dtype == torch.uint8
    assert len(tokenizer.encode(random_pictures(64)).unique()) > 8, "codes are spread, so that the other tests can fail"


def test_codes_and_pictures_do_not_depend_on_the_batch(weights: Path) -> None:
    tokenizer = ImageTokenizer.load(str(weights))
    pictures = random_pictures(2 * CHUNK + 3)
    codes = tokenizer.encode(pictures)
    one_by_one = torch.cat([tokenizer.encode(picture[None]) for picture in pictures])
    assert torch.equal(codes, one_by_one)
    assert torch.equal(codes, tokenizer.encode(pictures.flip(0)).flip(0))
    decoded = tokenizer.decode(codes)
    assert torch.equal(decoded, torch.cat([tokenizer.decode(row[None]) for row in codes]))


def test_the_fingerprint_is_the_files_hash(weights: Path) -> None:
    assert ImageTokenizer.load(str(weights)).fingerprint == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize("damage", ["empty", "header", "half", "garbage", "tail"])
def test_a_damaged_file_is_one_clear_line(weights: Path, damage: str) -> None:
    data = weights.read_bytes()
    cut = {"empty": b"", "header": data[:100], "half": data[: len(data) // 2], "garbage": b"\xff" * 400, "tail": data[:-1]}
    weights.write_bytes(cut[damage])
    with pytest.raises(UserError, match=r"tokenizer\.image=.*damaged.*train_tokenizer") as caught:
        ImageTokenizer.load(str(weights))
    assert "\n" not in str(caught.value)


def test_other_safetensors_are_refused(weights: Path) -> None:
    tensors = load_file(weights)
    save_file(tensors, weights)
    with pytest.raises(UserError, match="not an image tokenizer"):
        ImageTokenizer.load(str(weights))


def test_a_missing_file_names_the_packaged_one() -> None:
    with pytest.raises(UserError, match="starter_vq_v2"):
        ImageTokenizer.load("no_such_tokenizer")


def test_wrong_pictures_and_codes_are_refused(weights: Path) -> None:
    tokenizer = ImageTokenizer.load(str(weights))
    with pytest.raises(ValueError, match="need uint8"):
        tokenizer.encode(random_pictures(1, 24))
    with pytest.raises(ValueError, match="need uint8"):
        tokenizer.encode(random_pictures(1).float())
    for wrong in ([[0, 0, 0, 32]], [[-1, 0, 0, 0]], [[0, 0, 0]]):
        with pytest.raises(ValueError, match=r"values 0\.\.31"):
            tokenizer.decode(torch.tensor(wrong))


def test_the_same_networks_take_larger_pictures(weights: Path, squares: PictureSet) -> None:
    small, large = ImageTokenizer.load(str(weights)), ImageTokenizer.load(f"{weights}@32")
    assert (large.name, large.image_size, large.block) == ("tiny", 32, 16)
    assert large.fingerprint != small.fingerprint
    pictures = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    pictures[:, :, :16, :16] = squares.pictures[:2]
    codes = large.encode(pictures)
    assert large.decode(codes).shape == (2, 3, 32, 32)
    assert int(codes.max()) < 32
    with pytest.raises(UserError, match=r"image_size=20: must be a multiple of 8"):
        ImageTokenizer.load(f"{weights}@20")
