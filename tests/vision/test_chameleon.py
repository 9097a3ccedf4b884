"""Chameleon's image tokenizer against transformers' own: codes, tensors to the bit, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vision.architectures import build
from momafuse.vision.augment import to_unit
from momafuse.vision.chameleon import CODES, DECODER, check_shapes, shapes_of, theirs, write
from momafuse.vision.chameleon_config import architecture_of, vq_config_of
from momafuse.vision.config import VQGANArchitecture
from momafuse.vision.pictures import load_starter_pictures
from momafuse.vision.tokenizer import ImageTokenizer, save_tokenizer
from momafuse.vq.codes import CodeTable
from momafuse.vq.config import Space
from tests.data.corpora import write_image_tokenizer

pytest.importorskip("transformers")

from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

SMALL = VQGANArchitecture(64, 512, 16, base=32, multipliers=(1, 2, 2), blocks=1, attention=(), z=16)
ARCHITECTURES = {
    "64 codes": dataclasses.replace(SMALL, codes=64),
    "512 codes": SMALL,
    "8192 codes": dataclasses.replace(SMALL, codes=8192),
    "attention at 32": dataclasses.replace(SMALL, attention=(32,)),
    "attention at 16 and 32, two blocks": dataclasses.replace(SMALL, attention=(16, 32), blocks=2),
    "deeper": VQGANArchitecture(64, 512, 24, base=32, multipliers=(1, 1, 2, 2), blocks=1, attention=(), z=40),
}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def pictures() -> Tensor:
    """100 of the starter pack, spread over it."""
    found = load_starter_pictures(64).pictures
    return found[torch.linspace(0, len(found) - 1, 100).long()]


@cache
def published(arch: VQGANArchitecture) -> ChameleonVQVAE:
    """Random weights; codes are what the encoder says of places in pictures, so that many are used, and moved a little."""
    torch.manual_seed(0)
    model = ChameleonVQVAE(ChameleonVQVAEConfig(**vq_config_of(arch))).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.inference_mode():
        vectors = vectors_of(model, pictures()[::3])
    chosen = vectors[torch.randint(len(vectors), (arch.codes,), generator=rng(1))]
    model.quantize.embedding.weight.data = chosen + 0.1 * vectors.std() * torch.randn(chosen.shape, generator=rng(2))
    return model


def vectors_of(model: ChameleonVQVAE, chosen: Tensor) -> Tensor:
    """(N L, D), what is compared to the codes."""
    found: Tensor = model.quant_conv(model.encoder(to_unit(chosen)))
    return found.permute(0, 2, 3, 1).flatten(0, 2)


@torch.inference_mode()
def codes_of(model: ChameleonVQVAE, chosen: Tensor) -> Tensor:
    """(N, L)."""
    return torch.cat([model.encode(to_unit(part)).image_tokens.view(len(part), -1) for part in chosen.split(10)])


@torch.inference_mode()
def agree(model: ChameleonVQVAE, codes: Tensor, theirs: Tensor, order: Tensor | None = None) -> None:
    """As many places as rounding can turn may differ (one of 25,600 on some processors): there both codes are equally near."""
    found = codes if order is None else order[codes]
    differ = (found != theirs).flatten()
    assert differ.sum() < 4
    vectors = torch.cat([vectors_of(model, part) for part in pictures().split(10)])[differ].double()
    table = model.quantize.embedding.weight.double()
    near, far = ((vectors - table[ids.flatten()[differ]]).norm(dim=1) for ids in (found, theirs))
    torch.testing.assert_close(near, far, rtol=4e-6, atol=0)


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """By name, type and bit."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and torch.equal(found[name].contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8))
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_codes_are_those_of_transformers_and_tensors_go_back_to_the_bit(name: str, tmp_path: Path) -> None:
    arch = ARCHITECTURES[name]
    model = published(arch)
    file = tmp_path / "theirs.safetensors"
    given = model.state_dict()
    assert architecture_of(model.config.to_dict()) == arch
    assert check_shapes(arch, {name: tensor.shape for name, tensor in given.items()}) is False
    write(file, arch, given.__getitem__, decoder=False)
    tokenizer = ImageTokenizer.load(str(file))
    expected, found = codes_of(model, pictures()), tokenizer.encode(pictures())
    assert len(expected.unique()) > arch.codes / 5, "codes are spread, so that the test can fail"
    agree(model, found, expected)

    order = torch.randperm(arch.codes, generator=rng(3))
    write(file, arch, given.__getitem__, decoder=False, order=order)
    permuted = ImageTokenizer.load(str(file))
    agree(model, permuted.encode(pictures()), expected, order)
    assert permuted.fingerprint != tokenizer.fingerprint

    back = theirs(str(file))
    assert same(back.tensors, given)
    assert back.without_decoder.keys() == given.keys()
    assert back.order is not None
    assert torch.equal(back.order, order)
    again = ChameleonVQVAE(ChameleonVQVAEConfig(**vq_config_of(back.arch)))
    again.load_state_dict(back.tensors, strict=True)
    assert torch.equal(codes_of(again.eval(), pictures()), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("permuted", [False, True])
def test_in_out_and_in_again_is_the_same_file(dtype: torch.dtype, permuted: bool, tmp_path: Path) -> None:
    given = {name: tensor.to(dtype) for name, tensor in published(SMALL).state_dict().items()}
    given["quant_conv.weight"] = given["quant_conv.weight"].contiguous(memory_format=torch.channels_last)
    order = torch.randperm(SMALL.codes, generator=rng(3)) if permuted else None
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    write(first, SMALL, given.__getitem__, decoder=False, order=order)
    back = theirs(str(first))
    assert same(back.tensors, given)
    write(second, back.arch, back.tensors.__getitem__, decoder=False, order=back.order)
    assert first.read_bytes() == second.read_bytes()
    model = copy.deepcopy(published(SMALL))
    model.load_state_dict({name: tensor.float() for name, tensor in given.items()}, strict=True)
    found = ImageTokenizer.load(str(first)).encode(pictures())
    agree(model, found, codes_of(model, pictures()), order)


def test_the_released_layout_has_the_decoder_and_goes_back(tmp_path: Path) -> None:
    arch = dataclasses.replace(SMALL, attention=(16,))
    torch.manual_seed(0)
    model = build(arch)
    given = model.state_dict() | {CODES: torch.randn(arch.codes, arch.code_dim)}
    for order in (None, torch.randperm(arch.codes, generator=rng(3))):
        file = tmp_path / f"{order is None}.safetensors"
        found = {name: tensor.shape for name, tensor in given.items()}
        assert check_shapes(arch, found | {"loss.logvar": torch.Size([1])}) is True
        write(file, arch, given.__getitem__, decoder=True, order=order)
        tokenizer, back = ImageTokenizer.load(str(file)), theirs(str(file))
        assert tokenizer.decodes
        assert same(back.tensors, given)
        assert {DECODER + name for name in model.decoder.state_dict()} == back.tensors.keys() - back.without_decoder.keys()
        codes = tokenizer.encode(pictures()[:3])
        table = CodeTable(given[CODES] if order is None else given[CODES][order], "plane")
        ours = ImageTokenizer("ours", arch, build(arch), table, "")
        ours._model.load_state_dict(model.state_dict())
        assert torch.equal(codes, ours.encode(pictures()[:3]))
        assert torch.equal(tokenizer.decode(codes), ours.decode(codes))
        assert len(tokenizer.decode(codes).unique()) > 50


def test_a_tokenizer_trained_here_opens_in_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "ours.safetensors"
    model = build(SMALL)
    with torch.inference_mode():
        vectors = model.encode(to_unit(pictures()[:8])).flatten(0, 1)
    values = vectors[torch.randint(len(vectors), (SMALL.codes,), generator=rng(1))] + 0.01 * torch.randn(SMALL.codes, 16)
    save_tokenizer(file, SMALL, model, CodeTable(values, "plane"))
    back = theirs(str(file))
    assert {tensor.dtype for tensor in back.tensors.values()} == {torch.float16}
    again = ChameleonVQVAE(ChameleonVQVAEConfig(**vq_config_of(back.arch)))
    again.load_state_dict(back.without_decoder, strict=True)
    found = ImageTokenizer.load(str(file)).encode(pictures())
    assert len(found.unique()) > 100
    agree(again.eval(), found, codes_of(again, pictures()))


def spheres(path: Path, space: Space) -> str:
    codes = torch.nn.functional.normalize(torch.randn(SMALL.codes, SMALL.code_dim), dim=-1)
    save_tokenizer(path, SMALL, build(SMALL), CodeTable(codes, space))
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: spheres(path, "sphere"),
            r"codes live in the sphere, and Chameleon compares .*; train one with .*space=plane",
        ),
        (lambda path: spheres(path, "cube"), r"codes live in the cube"),
        (write_image_tokenizer, r"is no VQGAN"),
        (lambda path: "starter_vq_v2", r"starter_vq_v2: is no VQGAN, and Chameleon's layout has no other networks; train one"),
        (lambda path: "nowhere", r"nowhere: no packaged tokenizer of that name"),
    ],
)
def test_others_of_ours_are_refused_in_one_line(make: Callable[[Path], str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.image=.*" + message) as caught:
        theirs(make(tmp_path / "ours.safetensors"))
    assert "\n" not in str(caught.value)


Shapes = dict[str, tuple[int, ...]]


@pytest.mark.parametrize(
    ("decoder", "change", "message"),
    [
        (False, lambda s: s.pop(CODES), r"^quantize\.embedding\.weight: is missing; the config wants it of shape \[512, 16\]$"),
        (
            False,
            lambda s: s.update({CODES: (500, 16)}),
            r"^quantize.* is of shape \[500, 16\], and the config wants \[512, 16\]$",
        ),
        (False, lambda s: s.update({"encoder.x": (1,)}), r"^encoder\.x: no tensor of the network"),
        (True, lambda s: s.pop("decoder.conv_in.bias"), r"^decoder\.conv_in\.bias: is missing"),
        (False, lambda s: s.update({"decoder.conv_in.bias": (64,)}), r"^decoder\..*: is missing; .* \(and \d+ tensors more\)$"),
        (False, lambda s: s.clear(), r"^encoder\.conv_in\.weight: is missing; .* \(and \d+ tensors more\)$"),
    ],
)
def test_wrong_shapes_are_refused_by_name(decoder: bool, change: Callable[[Shapes], object], message: str) -> None:
    shapes = shapes_of(SMALL, decoder=decoder)
    assert check_shapes(SMALL, shapes) == decoder
    change(shapes)
    with pytest.raises(UserError, match=message):
        check_shapes(SMALL, shapes)


def test_shapes_are_transformers_own() -> None:
    for arch in ARCHITECTURES.values():
        with torch.device("meta"):
            model = ChameleonVQVAE(ChameleonVQVAEConfig(**vq_config_of(arch)))
        assert shapes_of(arch, decoder=False) == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_shapes_take_no_memory() -> None:
    shapes = shapes_of(dataclasses.replace(SMALL, base=1 << 17, codes=1 << 40), decoder=True)
    assert shapes[CODES] == (1 << 40, 16)
    assert shapes["decoder.up.0.block.0.conv1.weight"] == (1 << 17, 1 << 18, 3, 3)


def test_what_a_reader_gives_wrongly_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    given = published(SMALL).state_dict()
    file = tmp_path / "x.safetensors"
    for name, wrong, message in (
        ("quant_conv.bias", torch.zeros(15), r"^quant_conv\.bias: is torch\.float32 \[15\], and must be .* \[16\]"),
        ("quant_conv.bias", torch.zeros(16, dtype=torch.int8), r"^quant_conv\.bias: is torch\.int8"),
    ):
        with pytest.raises(UserError, match=message):
            write(file, SMALL, (given | {name: wrong}).__getitem__, decoder=False)
    for order in (torch.zeros(512, dtype=torch.int64), torch.arange(511), torch.arange(512).int()):
        with pytest.raises(ValueError, match=r"each of 0\.\.511 once"):
            write(file, SMALL, given.__getitem__, decoder=False, order=order)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_one_line(share: float, tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    write(file, SMALL, published(SMALL).state_dict().__getitem__, decoder=False)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    for read in (theirs, ImageTokenizer.load):
        with pytest.raises(UserError, match=r"tokenizer\.image=.*damaged") as caught:
            read(str(file))
        assert "\n" not in str(caught.value)


def test_a_file_that_says_what_is_not_so_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    given = published(SMALL).state_dict()
    write(file, SMALL, given.__getitem__, decoder=False)
    whole = file.read_bytes()
    old = b'"without":"decoder"'
    assert whole.count(old) == 1
    for new in (b'"without":"encoder"', b'"with_no":"decoder"'):  # nothing is guessed: of the second a decoder is looked for
        file.write_bytes(whole.replace(old, new))
        for read in (theirs, ImageTokenizer.load):
            with pytest.raises(UserError, match=r"tokenizer\.image=.* damaged"):
                read(str(file))


def test_without_a_decoder_it_encodes_and_says_why_it_does_not_decode(tmp_path: Path) -> None:
    file = tmp_path / "blind.safetensors"
    write(file, SMALL, published(SMALL).state_dict().__getitem__, decoder=False)
    assert not [name for name in load_file(file) if name.startswith(DECODER)]
    tokenizer = ImageTokenizer.load(str(file))
    assert not tokenizer.decodes
    assert not [name for name, _ in tokenizer._model.named_parameters() if name.startswith(DECODER)]
    codes = tokenizer.encode(pictures()[:2])
    with pytest.raises(UserError, match=r"^tokenizer\.image=blind: has no decoder.* import again .*image_tokenizer=FILE$"):
        tokenizer.decode(codes)
    larger = ImageTokenizer.load(f"{file}@128")
    assert larger.encode(torch.zeros(1, 3, 128, 128, dtype=torch.uint8)).shape == (1, 1024)
