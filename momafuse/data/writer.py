"""Writes a corpus (corpus.py says what it holds) aside, in finished parts, and renames it when it is whole.

A part is one file: the documents of one chunk of one source, in groups (each variant of the training pictures, then validation).
`assemble` puts them in the corpus's order: source by source, within a split the first variant of everything, then the second...;
so that variants of one picture never stand next to each other. The same parts give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from momafuse.data.corpus import KINDS, SPLITS, token_dtype
from momafuse.tokens.document import EncodedDocument
from momafuse.tokens.vocabulary import Vocabulary

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Group:
    """Documents in a row: ids end to end; `images` (k, 2) first code within its document and number of codes."""

    tokens: Array  # (n,) the corpus's dtype
    lengths: Array  # (docs,) int64
    images: Array  # (k, 2) int64
    pictures: Array  # (docs,) int64
    kinds: Array  # (docs,) uint8

    @classmethod
    def build(cls, documents: Sequence[EncodedDocument], vocabulary: Vocabulary) -> Group:
        ids = [d.ids for d in documents]
        return cls(
            tokens=np.concatenate([np.zeros(0, np.int64), *ids]).astype(token_dtype(vocabulary)),
            lengths=np.array([len(i) for i in ids], dtype=np.int64),
            images=np.concatenate([np.zeros((0, 2), np.int64), *(d.images for d in documents)]),
            pictures=np.array([len(d.images) for d in documents], dtype=np.int64),
            kinds=np.array([KINDS.index(d.kind) for d in documents], dtype=np.uint8),
        )


@dataclass(frozen=True)
class Part:
    """A finished chunk. `items` counts what was read of the source for it, rejected ones included."""

    items: int
    groups: tuple[Group, ...]  # the training variants in order, then validation
    rejects: tuple[tuple[str, str], ...]  # key and reason

    def save(self, path: Path) -> None:
        """In one file, which appears whole or not at all."""
        arrays = {f"{f.name}_{n}": getattr(g, f.name) for n, g in enumerate(self.groups) for f in fields(Group)}
        facts = json.dumps({"items": self.items, "rejects": self.rejects})
        aside = path.with_suffix(".tmp")
        with aside.open("wb") as file:
            np.savez(file, facts=np.array(facts), **arrays)
        aside.replace(path)

    @classmethod
    def facts(cls, path: Path) -> Part:
        """The part without its groups."""
        with np.load(path) as held:
            facts = json.loads(str(held["facts"]))
        return cls(facts["items"], (), tuple((key, reason) for key, reason in facts["rejects"]))


def part_paths(folder: Path, source: int) -> list[Path]:
    """The finished parts of a source in order."""
    return sorted(folder.glob(f"part_{source:03d}_*.npz"))


def part_path(folder: Path, source: int, number: int) -> Path:
    return folder / f"part_{source:03d}_{number:06d}.npz"


def assemble(folder: Path, sources: Sequence[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """Writes train/ and validation/ from the parts in `folder`; returns the manifest's entry of each split."""
    return {split: _assemble_split(folder, split, sources, vocabulary) for split in SPLITS}


def _groups(folder: Path, split: str, source: int) -> Iterator[Group]:
    """A source's groups of one split in the corpus's order."""
    paths = part_paths(folder, source)
    with np.load(paths[0]) as held:
        variants = sum(name.startswith("tokens_") for name in held.files) - 1
    for n in range(variants) if split == "train" else [variants]:
        for path in paths:
            with np.load(path) as held:
                yield Group(**{f.name: held[f"{f.name}_{n}"] for f in fields(Group)})


def _assemble_split(folder: Path, split: str, sources: Sequence[str], vocabulary: Vocabulary) -> dict[str, Any]:
    out = folder / split
    out.mkdir(exist_ok=True)
    image_ids = vocabulary.modality_of_ids() == vocabulary.names.index("image")
    infos: list[dict[str, Any]] = []
    counts = np.zeros(vocabulary.size, np.int64)
    tokens, documents, pictures = 0, 0, 0
    with _Streams(out) as streams:
        for number, name in enumerate(sources):
            info = {"name": name, "first": documents, "documents": 0, "text_tokens": 0, "image_tokens": 0, "pictures": 0}
            for group in _groups(folder, split, number):
                starts = tokens + np.cumsum(group.lengths) - group.lengths
                streams.write("tokens.bin", group.tokens)
                streams.write("offsets", starts)
                first = np.repeat(starts, group.pictures)
                streams.write("images", group.images + np.stack([first, np.zeros_like(first)], axis=1))
                streams.write("image_index", pictures + np.cumsum(group.pictures) - group.pictures)
                streams.write("kinds", group.kinds)
                occurring = np.bincount(group.tokens, minlength=vocabulary.size)
                counts += occurring
                image = int(occurring[image_ids].sum())
                info["documents"] += len(group.kinds)
                info["image_tokens"] += image
                info["text_tokens"] += len(group.tokens) - image
                info["pictures"] += len(group.images)
                tokens += len(group.tokens)
                documents += len(group.kinds)
                pictures += len(group.images)
            infos.append(info)
        streams.write("offsets", np.array([tokens]))
        streams.write("image_index", np.array([pictures]))
        streams.write("counts", counts)
        files = streams.finish(documents, pictures, vocabulary.size)
    return {"documents": documents, "tokens": tokens, "pictures": pictures, "sources": infos, "files": files}


class _Streams:
    """The growing files of a split. The .npy ones start with room for a header, which `finish` writes: nothing is held in memory."""

    HEADER = 128  # bytes; numpy aligns its headers to 64, and these shapes fit in 128

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._types: dict[str, npt.DTypeLike] = {
            **{name: np.int64 for name in ("offsets", "images", "image_index", "counts")},
            "kinds": np.uint8,
        }
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> _Streams:
        for name in self._types:
            self._files[name] = (self._folder / f"{name}.npy").open("w+b")
            self._files[name].write(b"\0" * self.HEADER)
        self._files["tokens.bin"] = (self._folder / "tokens.bin").open("w+b")
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, name: str, values: Array) -> None:
        dtype = self._types.get(name, values.dtype)
        self._files[name].write(np.ascontiguousarray(values, dtype=dtype).data)

    def finish(self, documents: int, pictures: int, ids: int) -> dict[str, Any]:
        """Writes the headers; returns size and SHA-256 of each file."""
        shapes: dict[str, tuple[int, ...]] = {
            "offsets": (documents + 1,),
            "images": (pictures, 2),
            "image_index": (documents + 1,),
            "kinds": (documents,),
            "counts": (ids,),
        }
        for name, shape in shapes.items():
            self._files[name].seek(0)
            self._files[name].write(_npy_header(np.dtype(self._types[name]), shape, self.HEADER))
        facts = {}
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            facts[name if name == "tokens.bin" else f"{name}.npy"] = {"bytes": file.tell(), "sha256": digest}
        return facts


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> bytes:
    """A version 1.0 .npy header (numpy.lib.format) of exactly `size` bytes."""
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    room = size - 10
    assert len(text) < room
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + f"{text:<{room - 1}}\n".encode("latin-1")


def write_json(path: Path, value: object) -> None:
    """Indented JSON with sorted keys; appears whole or not at all."""
    aside = path.with_suffix(".tmp")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")
