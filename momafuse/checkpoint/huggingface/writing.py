"""Tensors into one safetensors file, or into several with an index, in the order that they come in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from momafuse.checkpoint.huggingface.files import INDEX, WEIGHTS
from momafuse.errors import UserError
from momafuse.files import write_aside

READABLE = 0o644


def save(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raises UserError where the disk does not take it."""
    try:
        save_file(dict(tensors), file, {"format": "pt"})  # transformers asks for the format
    except SafetensorError as error:
        raise UserError(f"{file.parent}: cannot be written ({error}); make room, and run the same again") from error
    file.chmod(READABLE)  # it is written for its owner alone


def write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]], limit: float) -> list[Path]:
    """A file has `limit` bytes at most, or one tensor; so much is in memory. Returns the files. Raises as `save`."""
    parts: list[tuple[Path, dict[str, int]]] = []
    held: dict[str, Tensor] = {}

    def put() -> None:
        file = folder / f"part-{len(parts)}.safetensors"
        save(held, file)
        parts.append((file, {name: tensor.nbytes for name, tensor in held.items()}))
        held.clear()

    for name, tensor in tensors:
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > limit:
            put()
        held[name] = tensor.contiguous()
    put()
    if len(parts) == 1:
        return [parts[0][0].rename(folder / WEIGHTS)]
    stem, files = WEIGHTS.removesuffix(".safetensors"), list[Path]()
    index: dict[str, str] = {}
    for number, (part, sizes) in enumerate(parts, 1):
        files.append(part.rename(folder / f"{stem}-{number:05d}-of-{len(parts):05d}.safetensors"))
        index |= dict.fromkeys(sizes, files[-1].name)
    total = sum(size for _, sizes in parts for size in sizes.values())
    write_aside(folder / INDEX, json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1))
    return files
