"""The file of a VQ tokenizer: one safetensors file with the weights, the codes and where they live, and the architecture as
JSON. Weights that were trained here are fp16, those that came from elsewhere (vision/chameleon.py) as they came.

    codes (C, D)    a code each
    order (C,)      of tokenizers from elsewhere, where codes were renumbered: the number that code k had there

The metadata `without: decoder` says that the decoder's weights are not there. Nothing is unpickled. `what` in the
messages is the tokenizer's noun phrase, `key` the config key that named it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

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


@dataclasses.dataclass(frozen=True)
class Stored(Generic[A]):
    """What a file holds, to the bit. `order` (C,) int64, None: as they came; `decodes`: the decoder is among `tensors`."""

    arch: A
    tensors: dict[str, Tensor]
    codes: Tensor  # (C, D)
    order: Tensor | None
    space: Space
    decodes: bool


def save_weights(path: Path, kind: Kind, arch: Any, model: VQAutoencoder, codes: CodeTable) -> None:
    """Writes the file of a trained tokenizer, fp16, aside and then renamed."""
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_stored(path, kind, Stored(arch, tensors, codes.values.half(), None, codes.space, model.decodes))


def save_stored(path: Path, kind: Kind, stored: Stored[Any]) -> None:
    """Writes the file, aside and then renamed."""
    tensors = stored.tensors | {"codes": stored.codes} | ({} if stored.order is None else {"order": stored.order})
    metadata = {"format": kind.format, "architecture": json.dumps(dataclasses.asdict(stored.arch), sort_keys=True)}
    metadata |= {} if stored.space == SPACE else {"space": stored.space}
    metadata |= {} if stored.decodes else {"without": "decoder"}
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(_sorted(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)))
    aside.replace(path)


def _sorted(data: bytes) -> bytes:
    """The same file, its header in order: safetensors writes metadata in any, and equal weights are to be equal files."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:begin]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[begin:]


def load_weights(
    name_or_path: str,
    kind: Kind,
    architecture: Callable[..., A],
    model: Callable[[A], M],
    device: str,
    encoder: Callable[[A], M] | None = None,
) -> tuple[A, M, CodeTable, str]:
    """-> architecture, filled model, codes (C, D) fp32, the file's sha256. `encoder` makes the model of a file that has no
    decoder; None: there is none of this kind. Raises UserError if missing or damaged."""
    data = _read(name_or_path, kind)
    with _damage(name_or_path, kind):
        stored = _parse(data, kind, architecture)
        make = model if stored.decodes else encoder
        if make is None:
            raise ValueError("has no decoder")
        filled = make(stored.arch)
        filled.load_state_dict({name: tensor.float() for name, tensor in stored.tensors.items()})
    codes, space = stored.codes.float(), stored.space
    values = place(codes, space) if space == SPACE else codes  # on the sphere again after their rounding
    return stored.arch, filled.to(device), CodeTable(values.to(device), space), hashlib.sha256(data).hexdigest()


def read_weights(name_or_path: str, kind: Kind, architecture: Callable[..., A]) -> Stored[A]:
    """As they are stored. Raises UserError as `load_weights`, but for tensors of the model, which are not looked at."""
    data = _read(name_or_path, kind)
    with _damage(name_or_path, kind):
        return _parse(data, kind, architecture)


@contextlib.contextmanager
def _damage(name_or_path: str, kind: Kind) -> Iterator[None]:
    """What is wrong with a file, in one line."""
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"{kind.key}={name_or_path}: not {kind.what}, or damaged ({reason}); "
            f"copy it again or train one with `python -m momafuse.train_tokenizer tokenizer={kind.training}`"
        ) from error


def _read(name_or_path: str, kind: Kind) -> bytes:
    packaged = importlib.resources.files("momafuse") / "assets" / f"{name_or_path}.safetensors"
    for candidate in (packaged, Path(name_or_path)):
        if candidate.is_file():
            return candidate.read_bytes()
    raise UserError(
        f"{kind.key}={name_or_path}: no packaged tokenizer of that name and no such file; "
        f"use {kind.shipped} or the path of a trained tokenizer.safetensors"
    )


def _parse(data: bytes, kind: Kind, architecture: Callable[..., A]) -> Stored[A]:
    """Any of several errors where it is no weights file."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header["__metadata__"]
    if metadata["format"] != kind.format:
        raise ValueError(f"format is {metadata['format']}, not {kind.format}")
    fields: dict[str, Any] = json.loads(metadata["architecture"])
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    space: Space = metadata.get("space", SPACE)
    if space not in get_args(Space):
        raise ValueError(f"codes live in {space}")
    if metadata.get("without", "decoder") != "decoder":
        raise ValueError(f"is without {metadata['without']}")
    arch, tensors = architecture(**values), load(data)
    codes, order = tensors.pop("codes"), tensors.pop("order", None)
    if codes.shape != (arch.codes, arch.code_dim):
        raise ValueError(f"codes are {tuple(codes.shape)}")
    return Stored(arch, tensors, codes, order, space, "without" not in metadata)
