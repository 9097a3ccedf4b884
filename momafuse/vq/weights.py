"""The file of a trained VQ tokenizer: one safetensors file with fp16 weights, the codes and where they live, and the
architecture as JSON.

Nothing is unpickled. `what` in the messages is the tokenizer's noun phrase, `key` the config key that named it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vq.autoencoder import Coded, VQAutoencoder
from momafuse.vq.codes import CodeTable, place
from momafuse.vq.config import Space

SPACE: Space = "sphere"  # where codes live if a file says nothing
A = TypeVar("A", bound=Coded)
M = TypeVar("M", bound=VQAutoencoder)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of tokenizer: `format` stands in its files; `key` chooses one, `shipped` is that which comes with momafuse."""

    format: str
    key: str  # e.g. tokenizer.image
    what: str  # e.g. "an image tokenizer"
    shipped: str
    training: str  # the file of configs/tokenizer that trains one


def save_weights(path: Path, kind: Kind, arch: Any, model: VQAutoencoder, codes: CodeTable) -> None:
    """Writes the file, aside and then renamed."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": kind.format, "architecture": json.dumps(dataclasses.asdict(arch), sort_keys=True)}
    metadata |= {} if codes.space == SPACE else {"space": codes.space}
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(_sorted(save(tensors | {"codes": codes.values.half().contiguous()}, metadata)))
    aside.replace(path)


def _sorted(data: bytes) -> bytes:
    """The same file, its header in order: safetensors writes metadata in any, and equal weights are to be equal files."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:begin]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[begin:]


def load_weights(
    name_or_path: str, kind: Kind, architecture: Callable[..., A], model: Callable[[A], M], device: str
) -> tuple[A, M, CodeTable, str]:
    """-> architecture, filled model, codes (C, D) fp32, the file's sha256. Raises UserError if missing or damaged."""
    data = _read(name_or_path, kind)
    try:
        arch, tensors, space = _parse(data, kind, architecture)
        codes = tensors.pop("codes").float()
        filled = model(arch)
        filled.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        if codes.shape != (arch.codes, arch.code_dim):
            raise ValueError(f"codes are {tuple(codes.shape)}")
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"{kind.key}={name_or_path}: not {kind.what}, or damaged ({reason}); "
            f"copy it again or train one with `python -m momafuse.train_tokenizer tokenizer={kind.training}`"
        ) from error
    values = place(codes, space) if space == SPACE else codes  # on the sphere again after their rounding
    return arch, filled.to(device), CodeTable(values.to(device), space), hashlib.sha256(data).hexdigest()


def _read(name_or_path: str, kind: Kind) -> bytes:
    packaged = importlib.resources.files("momafuse") / "assets" / f"{name_or_path}.safetensors"
    for candidate in (packaged, Path(name_or_path)):
        if candidate.is_file():
            return candidate.read_bytes()
    raise UserError(
        f"{kind.key}={name_or_path}: no packaged tokenizer of that name and no such file; "
        f"use {kind.shipped} or the path of a trained tokenizer.safetensors"
    )


def _parse(data: bytes, kind: Kind, architecture: Callable[..., A]) -> tuple[A, dict[str, Tensor], Space]:
    """Architecture and tensors of a weights file, and where its codes live; any of several errors if it is none."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header["__metadata__"]
    if metadata["format"] != kind.format:
        raise ValueError(f"format is {metadata['format']}, not {kind.format}")
    fields: dict[str, Any] = json.loads(metadata["architecture"])
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    space: Space = metadata.get("space", SPACE)
    if space not in get_args(Space):
        raise ValueError(f"codes live in {space}")
    return architecture(**values), load(data), space
