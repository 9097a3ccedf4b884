"""Writes a corpus (corpus.py says what it holds) aside, in finished parts, and renames it when it is whole.

A part is one file: the documents of one chunk of one source, in groups (each variant of the training pictures, then
validation). `assemble` puts them in the corpus's order: source by source, within a split the first variant of
everything, then the second...; so that variants of one picture never stand next to each other. The same parts give
the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from momafuse.data.corpus import GIVEN, KINDS, NO_SPANS, SPLITS, file_sha256, token_dtype
from momafuse.data.duplicates import Flags, Marks, kept
from momafuse.data.layout import FILES, SourceInfo, layout_of, source_entry, split_entry
from momafuse.files import write_aside
from momafuse.tokens.document import EncodedDocument
from momafuse.tokens.vocabulary import Vocabulary

Array = npt.NDArray[Any]
Kept = dict[tuple[int, int], Flags]  # by source and part: which of its documents stay


@dataclass(frozen=True)
class Group:
    """Documents in a row: ids end to end; `items` (k, 3) first code within its document, number of codes and modality.

    `given` (g, 2) begin and end of each run of given ids within the row.
    """

    tokens: Array  # (n,) the corpus's dtype
    lengths: Array  # (docs,) int64
    items: Array  # (k, 3) int64
    held: Array  # (docs,) int64: items of each
    kinds: Array  # (docs,) uint8
    given: Array = field(default_factory=lambda: NO_SPANS)

    @classmethod
    def build(cls, documents: Sequence[EncodedDocument], vocabulary: Vocabulary) -> Group:
        ids = [d.ids for d in documents]
        lengths = np.array([len(i) for i in ids], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        return cls(
            tokens=np.concatenate([np.zeros(0, np.int64), *ids]).astype(token_dtype(vocabulary)),
            lengths=lengths,
            items=np.concatenate([np.zeros((0, 3), np.int64), *(d.items for d in documents)]),
            held=np.array([len(d.items) for d in documents], dtype=np.int64),
            kinds=np.array([KINDS.index(d.kind) for d in documents], dtype=np.uint8),
            given=np.concatenate([NO_SPANS, *(d.given + start for d, start in zip(documents, starts, strict=True))]),
        )

    def arrays(self) -> dict[str, Any]:
        """By name; `given` only where there are any."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: array for name, array in held.items() if name != GIVEN or len(array)}

    def select(self, keep: Array) -> Group:
        """The documents of which `keep` (docs,) is true."""
        tokens, before = np.repeat(keep, self.lengths), np.append(0, np.cumsum(np.repeat(keep, self.lengths)))
        given = self.given[tokens[self.given[:, 0]]] if len(self.given) else self.given
        return Group(
            tokens=self.tokens[tokens],
            lengths=self.lengths[keep],
            items=self.items[np.repeat(keep, self.held)],
            held=self.held[keep],
            kinds=self.kinds[keep],
            given=before[given],
        )

    @classmethod
    def load(cls, held: Mapping[str, Array], number: int) -> Group:
        """Of the part whose file is `held`."""
        names = {f.name: f"{f.name}_{number}" for f in fields(cls)}
        return cls(**{name: held[entry] for name, entry in names.items() if entry in held})


@dataclass(frozen=True)
class Part:
    """A finished chunk. `items` counts what was read of the source for it, with what was rejected or left out."""

    items: int
    groups: tuple[Group, ...]  # the training variants in order, then validation
    rejects: tuple[tuple[str, str], ...]  # key and reason
    left_out: dict[str, int] = field(default_factory=dict)  # documents, by the filter
    marks: Marks | None = None  # of those that are in the groups, where duplicates are looked for

    @property
    def facts(self) -> Facts:
        return Facts(self.items, sum(len(group.tokens) for group in self.groups), self.rejects, self.left_out)

    def save(self, path: Path) -> None:
        """In one file, which appears whole or not at all."""
        arrays = {f"{name}_{n}": array for n, group in enumerate(self.groups) for name, array in group.arrays().items()}
        arrays |= {"facts": np.array(json.dumps(asdict(self.facts)))} | (self.marks.arrays() if self.marks else {})
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        with aside.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


@dataclass(frozen=True)
class Facts:
    """What is told of a part."""

    items: int
    tokens: int
    rejects: tuple[tuple[str, str], ...]
    left_out: dict[str, int]

    @classmethod
    def load(cls, path: Path) -> Facts:
        """Raises ValueError or OSError where the file is not whole."""
        with np.load(path) as held:
            facts = json.loads(str(held["facts"]))
        return cls(**facts | {"rejects": tuple((key, reason) for key, reason in facts["rejects"])})


def parts(folder: Path, source: int) -> dict[int, Path]:
    """The finished parts of a source by number, in order."""
    return {int(path.stem.rpartition("_")[2]): path for path in sorted(folder.glob(f"part_{source:03d}_*.npz"))}


def part_path(folder: Path, source: int, number: int) -> Path:
    return folder / f"part_{source:03d}_{number:06d}.npz"


def assemble(
    folder: Path, sources: Mapping[str, int], vocabulary: Vocabulary, duplicates: Literal["keep", "exact", "near"] = "keep"
) -> tuple[dict[str, Any], dict[str, int]]:
    """Writes train/ and validation/ from the parts in `folder` of the sources with these numbers; returns the manifest's entry
    of each split, and how many documents of each source are left out as duplicates."""
    keep = _kept(folder, sources.values(), duplicates) if duplicates != "keep" else {}
    splits = {split: _assemble_split(folder, split, sources, vocabulary, keep) for split in SPLITS}
    return splits, {name: sum(int((~keep[m, p]).sum()) for m, p in keep if m == n) for name, n in sources.items()}


def _kept(folder: Path, sources: Iterable[int], how: Literal["exact", "near"]) -> Kept:
    marks: dict[tuple[int, int], Marks] = {}
    for source in sources:
        for number, path in parts(folder, source).items():
            with np.load(path) as held:
                marks[source, number] = Marks.load(held)
    ends = np.cumsum([len(m.held_out) for m in marks.values()])
    stays = np.split(kept(Marks.join(list(marks.values())), how), ends[:-1])
    return dict(zip(marks, stays, strict=True))


def _groups(folder: Path, split: str, source: int, keep: Kept) -> Iterator[Group]:
    """A source's groups of one split in the corpus's order."""
    numbered = parts(folder, source)
    with np.load(next(iter(numbered.values()))) as held:
        variants = sum(name.startswith("tokens_") for name in held.files) - 1
    for n in range(variants) if split == "train" else [variants]:
        for number, path in numbered.items():
            with np.load(path) as held:
                group = Group.load(held, n)
                if (source, number) in keep:
                    group = group.select(Marks.load(held).of_group(keep[source, number], n, variants))
                yield group


def _assemble_split(folder: Path, split: str, sources: Mapping[str, int], vocabulary: Vocabulary, keep: Kept) -> dict[str, Any]:
    out = folder / split
    out.mkdir(exist_ok=True)
    infos: list[SourceInfo] = []
    with _Streams(out, vocabulary) as streams:
        for name, number in sources.items():
            documents, before = streams.documents, streams.totals.copy()
            for group in _groups(folder, split, number, keep):
                streams.append(group)
            items, tokens = (streams.totals - before).tolist()
            infos.append(SourceInfo(name, documents, streams.documents - documents, tuple(tokens), tuple(items)))
        files = streams.finish()
    facts = {"documents": streams.documents, "tokens": streams.tokens} | split_entry(streams.items, vocabulary)
    return facts | {"sources": [source_entry(info, vocabulary) for info in infos], "files": files}


class _Streams:
    """The growing files of a split; nothing is held in memory.

    The .npy files start with room for a header, which `finish` writes when the shapes are known.
    """

    HEADER = 128  # bytes; numpy aligns its headers to 64, and these shapes fit in 128
    TYPES: ClassVar[dict[str, npt.DTypeLike]] = {"kinds": np.uint8, "item_modality": np.uint8}  # the others are int64

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self.documents, self.tokens, self.items, self.given = 0, 0, 0, 0
        self.totals = np.zeros((2, len(vocabulary.names)), np.int64)  # items and tokens of each modality
        self._modality = vocabulary.modality_of_ids()
        self._counts = np.zeros(vocabulary.size, np.int64)
        names = FILES[layout_of(vocabulary)] | {GIVEN: GIVEN}
        self._paths = {"tokens": folder / "tokens.bin"} | {field: folder / f"{name}.npy" for field, name in names.items()}
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> _Streams:
        self._files = {field: path.open("wb") for field, path in self._paths.items()}
        for name, file in self._files.items():
            if name != "tokens":
                file.write(b"\0" * self.HEADER)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, group: Group) -> None:
        starts = self.tokens + np.cumsum(group.lengths) - group.lengths
        first = np.repeat(starts, group.held)
        self._write("tokens", group.tokens)
        self._write("offsets", starts)
        self._write("items", group.items[:, :2] + np.stack([first, np.zeros_like(first)], axis=1))
        self._write("item_index", self.items + np.cumsum(group.held) - group.held)
        self._write("item_modality", group.items[:, 2].astype(np.uint8))
        totals = self.totals + self._running(group)
        self._write("before", totals[:-1])
        self._write("kinds", group.kinds)
        self._write(GIVEN, group.given + self.tokens)
        self._counts += np.bincount(group.tokens, minlength=len(self._counts))
        self.given += len(group.given)
        self.documents += len(group.kinds)
        self.tokens += len(group.tokens)
        self.items += len(group.items)
        self.totals = totals[-1]

    def _running(self, group: Group) -> Array:
        """(docs + 1, 2, M): items and tokens of each modality in the documents of the group before each."""
        kinds, documents = self.totals.shape[1], len(group.lengths)
        running = np.zeros((documents + 1, 2, kinds), np.int64)
        of_item, of_token = (np.repeat(np.arange(documents), n) for n in (group.held, group.lengths))
        for i, (document, m) in enumerate(((of_item, group.items[:, 2]), (of_token, self._modality[group.tokens]))):
            number = np.bincount(document * kinds + m, minlength=documents * kinds)
            running[1:, i] = number.reshape(documents, kinds).cumsum(axis=0)
        return running

    def finish(self) -> dict[str, Any]:
        """Writes what is known only now; returns size and SHA-256 of each file."""
        self._write("offsets", np.array([self.tokens], np.int64))
        self._write("item_index", np.array([self.items], np.int64))
        self._write("before", self.totals[None])
        self._write("counts", self._counts)
        if not self.given:  # so that a corpus without given segments is what it always was
            self._files.pop(GIVEN).close()
            self._paths.pop(GIVEN).unlink()
        shapes: dict[str, tuple[int, ...]] = {
            "offsets": (self.documents + 1,),
            "items": (self.items, 2),
            "item_index": (self.documents + 1,),
            "item_modality": (self.items,),
            "before": (self.documents + 1, *self.totals.shape),
            "kinds": (self.documents,),
            "counts": self._counts.shape,
            GIVEN: (self.given, 2),
        }
        for name, file in self._files.items():
            if name != "tokens":
                file.seek(0)
                file.write(_npy_header(np.dtype(self.TYPES.get(name, np.int64)), shapes[name], self.HEADER))
            file.flush()
            os.fsync(file.fileno())
        return {p.name: {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in self._paths.values()}

    def _write(self, field: str, values: Array) -> None:
        """What this layout has no file for is left out."""
        if field in self._files:
            assert field == "tokens" or values.dtype == self.TYPES.get(field, np.int64)
            self._files[field].write(np.ascontiguousarray(values).data)


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> bytes:
    """A version 1.0 .npy header (numpy.lib.format) of exactly `size` bytes."""
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    room = size - 10
    assert len(text) < room
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + f"{text:<{room - 1}}\n".encode("latin-1")


def write_json(path: Path, value: object) -> None:
    """Indented JSON with sorted keys; appears whole or not at all."""
    write_aside(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")
