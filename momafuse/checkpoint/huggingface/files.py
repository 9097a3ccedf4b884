"""Safetensors of a foreign checkpoint: names, shapes and dtypes from the headers alone, tensors one at a time.

    FOLDER/model.safetensors                                    or
    FOLDER/model.safetensors.index.json + the shards it names   or any one .safetensors file

Opening reads headers and compares them with the index, so that what is missing, truncated or a pickle is refused before any
weight is in memory. A tensor that is read lies in the mapped file until it is let go. Knows no names (layouts.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from momafuse.errors import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CONVERT = (
    "only safetensors are read, since a pickle can run any program; convert it where you trust it: "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
)
CONVERT_CKPT = CONVERT.replace("weights_only=True)", 'weights_only=True)["state_dict"]')


@dataclass(frozen=True)
class Stored:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Tensors(Protocol):
    """Named tensors that are read one at a time."""

    @property
    def stored(self) -> Mapping[str, Stored]: ...
    def read(self, name: str) -> Tensor: ...


class SafeFiles:
    """The tensors of one or several files, under one name each."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Raises UserError for a file that is none, or truncated, or of numbers that are no floats."""
        self.stored: dict[str, Stored] = {}
        self.of: dict[str, Path] = {}
        for file in files:
            for name, stored in headers(file).items():
                if name in self.of:
                    raise UserError(f"{file}: has {name}, which {self.of[name].name} has too; remove one of the two files")
                self.stored[name], self.of[name] = stored, file

    def read(self, name: str) -> Tensor:
        with safe_open(self.of[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def headers(file: Path) -> dict[str, Stored]:
    """Name -> shape and dtype of every tensor of one file."""
    try:
        with safe_open(file, framework="pt") as opened:
            found = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 -- no mapping
            shapes = {name: (tuple(x.get_shape()), x.get_dtype()) for name, x in found.items()}
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: {_damage(file, error)}") from error
    if odd := {dtype for _, dtype in shapes.values()} - set(DTYPES):
        raise UserError(f"{file}: holds numbers of type {', '.join(sorted(odd))}; known are {', '.join(DTYPES)}")
    return {name: Stored(shape, DTYPES[dtype]) for name, (shape, dtype) in shapes.items()}


def _damage(file: Path, error: Exception) -> str:
    with file.open("rb") as opened:
        head = opened.read(9)
    if head[:1] == b"\x80" or head[:2] == b"PK":
        return f"is a pickle; {CONVERT}"
    if head[8:9] == b"{" and "not fully covered" in str(error):
        return "is truncated; copy or download it again"
    return f"no safetensors file ({error}); copy or download it again"


def model_files(folder: Path) -> SafeFiles:
    """The weights of a folder. Raises UserError where there are none, or not those that the index names."""
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / WEIGHTS).is_file():
        return SafeFiles([folder / WEIGHTS])
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise UserError(f"{folder}: has {pickles[0]} and no {WEIGHTS}; {CONVERT}")
    raise UserError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there; give a folder of a model in the Hugging Face layout")


def _indexed(folder: Path) -> SafeFiles:
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, Mapping) or not all(isinstance(shard, str) for shard in index.values()):
        raise UserError(f"{folder / INDEX}: no weight_map in it; copy or download it again")
    shards = sorted(set(index.values()))
    for shard in shards:
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise UserError(f"{folder / INDEX}: names {shard}, which is not there; copy or download it again")
    files = SafeFiles(folder / shard for shard in shards)
    wrong = [name for name, shard in index.items() if name not in files.of or files.of[name].name != shard]
    if wrong:
        raise UserError(f"{folder / INDEX}: {wrong[0]} is not in {index[wrong[0]]}; these files are of different models")
    if unnamed := [name for name in files.of if name not in index]:
        raise UserError(f"{folder / INDEX}: has no {unnamed[0]}; these files are of different models")
    return files


def read_json(file: Path) -> dict[str, Any]:
    """Raises UserError where it cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); copy or download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds no JSON object; copy or download it again")
    return found
