"""A foreign dense model as the first checkpoint of a run: what is there, whether it fits, and the weights one at a time.

`find` reads config and headers and refuses what does not fit by name, before any weight is in memory. Rows that the new
vocabulary has beyond the foreign one (image codes and specials of a text model) are drawn with the standard deviation of the
rows that are there, keyed by (seed, path). Weights keep the numbers and the dtype that they have.
Does not know tokenizers (tokens/, vision/) nor what a run's config is (import_.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

from momafuse.checkpoint.huggingface import layouts, released
from momafuse.checkpoint.huggingface.exported import MODEL_TYPE
from momafuse.checkpoint.huggingface.files import CONVERT_CKPT, SafeFiles, Stored, Tensors, model_files, read_json
from momafuse.checkpoint.huggingface.layouts import Foreign, ours, read_foreign
from momafuse.checkpoint.streaming import Promised
from momafuse.errors import UserError
from momafuse.models.initialise import generator
from momafuse.vision.chameleon import PREFIX, check_shapes
from momafuse.vision.chameleon_config import architecture_of, released_architecture
from momafuse.vision.config import VQGANArchitecture

WHOLE_PICTURES = "vqgan.safetensors"  # the image tokenizer with its decoder, beside the weights or beside a released tokenizer
TOKENIZER = "tokenizer.json"
NAMED = 3  # tensors in a message
STRETCH = 1024  # rows at a time


@dataclass(frozen=True)
class Pictures:
    """The image tokenizer of a Chameleon, under the released names."""

    arch: VQGANArchitecture
    stored: Mapping[str, Stored]
    read: Callable[[str], Tensor]
    source: str  # what messages call it

    @property
    def decodes(self) -> bool:
        """Whether a decoder is among the tensors. Raises UserError where they are not those of the architecture."""
        try:
            return check_shapes(self.arch, {name: s.shape for name, s in self.stored.items()})
        except UserError as error:
            raise UserError(f"{self.source}: {error}") from error


@dataclass(frozen=True)
class Found:
    """A foreign checkpoint of which no weight was read yet."""

    foreign: Foreign
    tensors: Tensors  # of the transformer, by the names of the Hugging Face layout
    pictures: Pictures | None  # None of a text model
    text: Path  # its tokenizer.json
    config: Mapping[str, Any]  # its config.json; empty of a released one


def find(folder: Path) -> Found:
    """Raises UserError for anything that is missing, damaged or not ours to read."""
    if not folder.is_dir():
        raise UserError(f"from={folder}: no such folder; give that of a model: config.json, {TOKENIZER}, model.safetensors")
    return _released(folder) if released.is_released(folder) else _hugging_face(folder)


def _hugging_face(folder: Path) -> Found:
    file = folder / "config.json"
    config = read_json(file)
    if config.get("model_type") == MODEL_TYPE:
        remedy = "momafuse.load and generate take it as it is; to train on, take the run that it was made of"
        raise UserError(f"from={folder}: is what momafuse.export wrote; {remedy}")
    try:
        foreign = read_foreign(config)
        arch = architecture_of(config.get("vq_config")) if foreign.kind == "chameleon" else None
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    files = model_files(folder)
    vq = {name.removeprefix(PREFIX): stored for name, stored in files.stored.items() if name.startswith(PREFIX)}
    rest = {name: stored for name, stored in files.stored.items() if not name.startswith(PREFIX)}
    if foreign.tied:
        rest.pop(layouts.HEAD, None)  # the same again, in some files
    _refuse_misfits(folder, foreign, rest)
    pictures = None
    if arch is not None:
        whole = folder / WHOLE_PICTURES
        mine = Pictures(arch, vq, lambda name: files.read(PREFIX + name), str(folder))
        pictures = from_file(arch, whole) if whole.is_file() else mine
    return Found(foreign, files, pictures, _tokenizer(folder), config)


def _released(folder: Path) -> Found:
    files = released.shards(folder)
    foreign = released.read_params(folder, files)
    try:
        tensors = released.Released(files, foreign)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    beside = folder.parent.parent / "tokenizer"
    arch = _released_architecture(beside / "vqgan.yaml")
    text = beside / "text_tokenizer.json"
    if not text.is_file():
        raise UserError(f"{text}: no such file; a released Chameleon has it beside its models")
    return Found(foreign, tensors, from_file(arch, beside / WHOLE_PICTURES), text, {})


def _released_architecture(file: Path) -> VQGANArchitecture:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        return released_architecture(values["model"]["params"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{file}: cannot be read as Chameleon's vqgan.yaml ({error}); copy it again") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def from_file(arch: VQGANArchitecture, file: Path) -> Pictures:
    """Of a file beside the weights, which may have the decoder."""
    if not file.is_file() and (pickles := sorted(file.parent.glob("*.ckpt"))):
        raise UserError(f"{file}: no such file, but {pickles[0].name}; {CONVERT_CKPT}")
    files = SafeFiles([file])
    return Pictures(arch, files.stored, files.read, str(file))


def _tokenizer(folder: Path) -> Path:
    if not (folder / TOKENIZER).is_file():
        raise UserError(f"{folder}: has no {TOKENIZER}; without it nobody knows what its ids mean")
    return folder / TOKENIZER


def _refuse_misfits(folder: Path, foreign: Foreign, stored: Mapping[str, Stored]) -> None:
    """Missing, unknown and of other shapes than config.json says."""
    wanted = foreign.shapes()
    missing = [f"{name} {shape} is missing" for name, shape in wanted.items() if name not in stored]
    wrong = [
        f"{name} is {stored[name].shape}, by config.json {shape}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    unknown = [f"{name} has no place" for name in stored if name not in wanted and not layouts.COMPUTED.fullmatch(name)]
    if misfits := wrong + missing + unknown:
        more = f"; and {len(misfits) - NAMED} more" if len(misfits) > NAMED else ""
        raise UserError(f"{folder}: the weights are not those of its config.json: {'; '.join(misfits[:NAMED])}{more}")


def promised(
    found: Found, shapes: Mapping[str, tuple[int, ...]], seed: int, tick: Callable[[int], object]
) -> dict[str, Promised]:
    """What each of our tensors (path -> shape) will be; `tick` gets the bytes of every one that was made."""
    return {path: _promise(found, path, shape, seed, tick) for path, shape in shapes.items()}


def _promise(found: Found, path: str, shape: tuple[int, ...], seed: int, tick: Callable[[int], object]) -> Promised:
    names = found.foreign.sources(path)
    stored = found.tensors.stored[names[0]]

    def make() -> Tensor:
        made = ours(path, [found.tensors.read(name) for name in names])
        if made.shape[0] < shape[0]:
            made = with_fresh_rows(made, shape[0], path, seed)
        tick(made.nbytes)
        return made

    return Promised(shape, stored.dtype, make)


def with_fresh_rows(rows: Tensor, count: int, path: str, seed: int) -> Tensor:
    """(V, D) -> (count, D), the new ones as those that are there: of mean 0 and their standard deviation."""
    fresh = torch.randn(count - rows.shape[0], rows.shape[1], generator=generator(seed, f"{path}:rows"))
    return torch.cat([rows, (fresh * _deviation(rows)).to(rows.dtype)])


def _deviation(rows: Tensor) -> float:
    """The standard deviation of all numbers, without a copy of them in fp32, which of a large vocabulary takes gigabytes."""
    parts = torch.split(rows, STRETCH)
    mean = sum(float(part.double().sum()) for part in parts) / rows.numel()
    return math.sqrt(sum(float((part.double() - mean).square().sum()) for part in parts) / (rows.numel() - 1))
