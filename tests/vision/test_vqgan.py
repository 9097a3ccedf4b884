"""VQGAN against the published module: the name and shape of every tensor written out, and the forward in plain products."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from momafuse.config.compose import compose_jobs
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.errors import UserError
from momafuse.train_tokenizer import main
from momafuse.vision.architectures import build
from momafuse.vision.config import VQConfig, VQGANArchitecture
from momafuse.vision.tokenizer import ImageTokenizer, save_tokenizer
from momafuse.vision.vqgan import VQGAN, Attention, Halve
from momafuse.vq.codes import CodeTable

SMALL = VQGANArchitecture(32, 64, 8, base=32, multipliers=(1, 2, 2), blocks=1, attention=(16,), z=16)


def conv(name: str, before: int, after: int, kernel: int = 3) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (after, before, kernel, kernel)
    yield f"{name}.bias", (after,)


def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def residual(name: str, before: int, after: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm1", before)
    yield from conv(f"{name}.conv1", before, after)
    yield from norm(f"{name}.norm2", after)
    yield from conv(f"{name}.conv2", after, after)
    if before != after:
        yield from conv(f"{name}.nin_shortcut", before, after, 1)


def middle(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for block in ("block_1", "block_2"):
        yield from residual(f"{name}.mid.{block}", channels, channels)
    yield from norm(f"{name}.mid.attn_1.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.mid.attn_1.{part}", channels, channels, 1)


def published() -> Iterator[tuple[str, tuple[int, ...]]]:
    """As in the checkpoint of Chameleon's tokenizer, without `quantize.embedding.weight` (8192, 256), our codes."""
    yield from conv("encoder.conv_in", 3, 128)
    for level, (before, after) in enumerate([(128, 128), (128, 128), (128, 256), (256, 256), (256, 512)]):
        yield from residual(f"encoder.down.{level}.block.0", before, after)
        yield from residual(f"encoder.down.{level}.block.1", after, after)
        if level < 4:
            yield from conv(f"encoder.down.{level}.downsample.conv", after, after)
    yield from middle("encoder", 512)
    yield from norm("encoder.norm_out", 512)
    yield from conv("encoder.conv_out", 512, 256)
    yield from conv("decoder.conv_in", 256, 512)
    yield from middle("decoder", 512)
    for level, (before, after) in enumerate([(128, 128), (256, 128), (256, 256), (512, 256), (512, 512)]):
        yield from residual(f"decoder.up.{level}.block.0", before, after)
        yield from residual(f"decoder.up.{level}.block.1", after, after)
        yield from residual(f"decoder.up.{level}.block.2", after, after)
        if level > 0:
            yield from conv(f"decoder.up.{level}.upsample.conv", after, after)
    yield from norm("decoder.norm_out", 128)
    yield from conv("decoder.conv_out", 128, 3)
    yield from conv("quant_conv", 256, 256, 1)
    yield from conv("post_quant_conv", 256, 256, 1)


def test_the_configuration_at_512_pixels_has_the_published_tensors() -> None:
    (job,) = compose_jobs(["tokenizer=vqgan_512"], "train_tokenizer", TokenizerTraining)
    assert isinstance(job.config.tokenizer, VQConfig)
    arch = job.config.tokenizer.architecture
    assert isinstance(arch, VQGANArchitecture)
    assert (arch.image_size, arch.codes, arch.code_dim, arch.reduction) == (512, 8192, 256, 16)
    with torch.device("meta"):
        model = VQGAN(arch)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        vectors = model.encode(torch.empty(1, 3, 512, 512))
    assert shapes == dict(published())
    assert len(shapes) == 292
    assert sum(p.numel() for p in model.parameters()) == 66_621_315
    assert vectors.shape == (1, 1024, 256)
    assert model.decode(vectors).shape == (1, 3, 512, 512)


@pytest.mark.slow
def test_the_configuration_at_512_pixels_makes_a_step(tmp_path: Path) -> None:
    """All of its 66.6 M parameters, on one picture of 32 pixels, which has four codes. First codes are drawn: k-means wants
    eight vectors for each of 8,192."""
    pixels = torch.randint(0, 256, (4, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for number, picture in enumerate(pixels):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{number}.png")
    small = "architecture.image_size=32 max_shift=2 plain_steps=0 quantizer.first=random discriminator.start=1".split()
    words = ["tokenizer=vqgan_512", *(f"tokenizer.{word}" for word in small), "trainer.max_steps=1", "trainer.global_batch=1"]
    words += ["data=picture_folder", f"data.sources.pictures.path={tmp_path}", f"run.root={tmp_path / 'runs'}"]
    main([*words, "logger.wandb=disabled", f"out={tmp_path / 'out'}"])
    file = tmp_path / "out" / "vqgan_512.safetensors"
    tokenizer = ImageTokenizer.load(str(file))
    assert (tokenizer.image_size, tokenizer.block, tokenizer.codes) == (32, 4, 8192)
    file.unlink()  # 137 MB
    assert json.loads((tmp_path / "out" / "vqgan_512.json").read_text("utf-8"))["heldout"]["psnr_pooled"] > 5


def test_levels_attend_where_the_side_says_so() -> None:
    names = VQGAN(SMALL).state_dict()
    attending = {name.rpartition(".attn")[0] for name in names if ".attn" in name}
    assert attending == {"encoder.down.1", "encoder.mid", "decoder.mid", "decoder.up.1"}
    assert "decoder.up.1.attn.1.q.weight" in names, "behind each of its two blocks"


def test_attention_is_softmax_over_all_places() -> None:
    torch.manual_seed(0)
    layer = Attention(32).double()
    x = torch.randn(2, 32, 3, 3, dtype=torch.float64)
    h = layer.norm(x)
    rows = {part: getattr(layer, part)(h).flatten(2).transpose(1, 2) for part in ("q", "k", "v")}
    seen = torch.zeros(2, 9, 32, dtype=torch.float64)
    for n in range(2):
        for i in range(9):
            scores = torch.stack([rows["q"][n, i] @ rows["k"][n, j] / 32**0.5 for j in range(9)]).softmax(0)
            seen[n, i] = sum(scores[j] * rows["v"][n, j] for j in range(9))
    expected = x + layer.proj_out(seen.transpose(1, 2).reshape(2, 32, 3, 3))
    torch.testing.assert_close(layer(x), expected)


def test_sides_are_halved_from_the_upper_left() -> None:
    halve = Halve(1)
    torch.nn.init.zeros_(halve.conv.weight)
    torch.nn.init.zeros_(halve.conv.bias)  # type: ignore[arg-type]
    halve.conv.weight.data[0, 0, 0, 0] = 1.0
    x = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(halve(x), x[:, :, ::2, ::2])


def gradient_paths(model: VQGAN) -> list[str]:
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    (model.decode(model.encode(x)) - x).square().mean().backward()  # type: ignore[no-untyped-call]
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    no_effect = {name for name in gradient_paths(VQGAN(SMALL)) if not name.endswith(".k.bias")}  # it adds alike to all scores
    assert no_effect == set()


def test_a_file_says_which_architecture_it_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codes: Tensor = torch.nn.functional.normalize(torch.randn(64, 8), dim=-1)
    save_tokenizer(tmp_path / "small.safetensors", SMALL, build(SMALL), CodeTable(codes, "sphere"))
    tokenizer = ImageTokenizer.load(str(tmp_path / "small.safetensors"))
    assert (tokenizer.image_size, tokenizer.block, tokenizer.codes) == (32, 64, 64)
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert tokenizer.decode(tokenizer.encode(pictures)).shape == pictures.shape


@pytest.mark.parametrize(
    ("size", "base", "message"), [(30, 32, "image_size=30: .* multiple of 4"), (32, 48, "base=48: .* of 32")]
)
def test_sizes_that_do_not_divide_are_one_line(size: int, base: int, message: str) -> None:
    with pytest.raises(UserError, match=rf"tokenizer\.architecture\.{message}"):
        build(VQGANArchitecture(size, 64, 8, base=base, multipliers=(1, 2, 2), blocks=1, attention=(), z=16))


@pytest.mark.parametrize("changed", [{"multipliers": ()}, {"multipliers": (1, 0)}, {"blocks": 0}, {"z": 0}, {"base": 0}])
def test_what_is_not_there_is_one_line(changed: dict[str, object]) -> None:
    (name,) = changed
    with pytest.raises(UserError, match=rf"tokenizer\.architecture\.{name}=.*at least 1"):
        build(dataclasses.replace(SMALL, **changed))  # type: ignore[arg-type]
