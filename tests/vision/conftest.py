from __future__ import annotations

from pathlib import Path

import pytest
import torch

from momafuse.vision.autoencoder import Autoencoder
from momafuse.vision.config import Architecture, VQConfig
from momafuse.vision.pictures import PictureSet
from momafuse.vision.tokenizer import save_tokenizer
from momafuse.vq.codes import CodeTable
from tests.vq.quantizers import EMA, config


@pytest.fixture(scope="session")
def tiny() -> VQConfig:
    """A tokenizer of 32 codes for 16-px pictures that trains in a second."""
    arch = Architecture(
        image_size=16,
        codes=32,
        code_dim=4,
        encoder_channels=(8, 16),
        encoder_blocks=(1, 1),
        decoder_channels=(16, 8, 8),
        decoder_blocks=(1, 1, 1),
    )
    return VQConfig(
        kind="vq",
        name="tiny",
        architecture=arch,
        plain_steps=20,
        crop_share=0.0,
        max_shift=2,
        colour_share=0.2,
        perceptual_weight=0.0,
        discriminator=None,
        weight_ema=0.9,
        quantizer=config(EMA),
    )


@pytest.fixture(scope="session")
def squares() -> PictureSet:
    """80 pictures of one coloured square on white; every tenth is held out."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.full((80, 3, 16, 16), 255, dtype=torch.uint8)
    for picture in pictures:
        y, x = torch.randint(0, 8, (2,), generator=generator).tolist()
        colour = torch.randint(0, 200, (3, 1, 1), dtype=torch.uint8, generator=generator)
        picture[:, y : y + 8, x : x + 8] = colour
    heldout = torch.arange(80) % 10 == 0
    kinds = ["emoji" if i % 20 else "clip_art" for i in range(80)]
    return PictureSet(pictures, [f"square {i}" for i in range(80)], kinds, heldout)


@pytest.fixture
def weights(tiny: VQConfig, tmp_path: Path) -> Path:
    """A weights file of random values in every tensor."""
    torch.manual_seed(0)
    model = Autoencoder(tiny.architecture)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path / "tiny.safetensors"
    codes = torch.nn.functional.normalize(torch.randn(32, 4), dim=-1)
    save_tokenizer(path, tiny.architecture, model, CodeTable(codes, "sphere"))
    return path
