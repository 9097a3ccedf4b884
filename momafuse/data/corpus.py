"""The prepared corpus on disk, opened read-only: flat ids of one id space, with the places of documents and items.

    manifest.json                    layout, vocabulary, tokenizers, sources, counts; size and SHA-256 of every file
    rejects.jsonl                    documents left out, with the reason
    train/ and validation/
      tokens.bin         (n,)              ids, uint16 (uint32 above 65,536)
      offsets.npy        (docs + 1,)       int64: document d is tokens[offsets[d]:offsets[d + 1]]
      items.npy          (items, 2)        int64: first token and number of the codes of each item (picture, utterance)
      item_index.npy     (docs + 1,)       int64: items of document d are items[item_index[d]:item_index[d + 1]]
      item_modality.npy  (items,)          uint8: the number of its modality
      before.npy         (docs + 1, 2, M)  int64: items and tokens of each modality in all documents before d
      kinds.npy          (docs,)           uint8: places in KINDS
      counts.npy         (vocabulary,)     int64: how often each id occurs
      given.npy          (spans, 2)        int64: first token of each run of given ones (a prompt), and first after it; sorted,
                                           apart. Only where there are any

A corpus of text and pictures alone has no item_modality and no before, for both follow from item_index, and calls items
images (layout.py). All files are memory-mapped: opening costs the manifest and, below 256 MB or when asked, one read for the
checksums. Writes nothing (writer.py) and plans no sequence (packing.py).
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from momafuse.data.codecs import tokenizer_fingerprints
from momafuse.data.layout import FILES, VERSIONS, SourceInfo, layout_of, source_info
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary

MANIFEST = "manifest.json"
KINDS = ("pair", "interleaved", "text")
SPLITS = ("train", "validation")
GIVEN = "given"  # the file that a split may lack
NO_SPANS: npt.NDArray[np.int64] = np.zeros((0, 2), np.int64)
_MANIFEST_KEYS = ("vocabulary", "tokenizers", "sources", "splits")
ALWAYS_HASHED = 256 * 2**20  # bytes up to which opening reads and checks everything


class Items(NamedTuple):
    """The items of some documents, end to end."""

    rows: npt.NDArray[np.int64]  # (k, 2) first token within the document, and number of codes
    modality: npt.NDArray[np.uint8]  # (k,)
    bounds: npt.NDArray[np.int64]  # (n + 1,) where those of each document begin


@dataclass(frozen=True)
class Split:
    """One split, memory-mapped. `fingerprint` changes with anything that the order of sequences depends on.

    `path` is its folder. `item_modality` and `before` are None in layout 1. `given` is None where the corpus's training split
    has none; a held-out split may then hold an empty one.
    """

    tokens: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    item_index: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    counts: npt.NDArray[np.int64]
    sources: tuple[SourceInfo, ...]
    fingerprint: str
    vocabulary: Vocabulary
    path: Path
    item_modality: npt.NDArray[np.uint8] | None = None
    before: npt.NDArray[np.int64] | None = None
    given: npt.NDArray[np.int64] | None = None

    @property
    def documents(self) -> int:
        return len(self.kinds)

    def items_of(self, document: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Of its items: (k, 2) first token within the document and number of codes, and (k,) modality."""
        rows, modality, _ = self.items_in(np.array([document]))
        return rows, modality

    def items_in(self, documents: npt.NDArray[np.int64]) -> Items:
        first = self.item_index[documents]
        held = self.item_index[documents + 1] - first
        bounds = np.append(0, np.cumsum(held))
        at = np.repeat(first - bounds[:-1], held) + np.arange(bounds[-1])
        rows = np.array(self.items[at])
        rows[:, 0] -= np.repeat(self.offsets[documents], held)
        modality = np.ones(len(rows), np.uint8) if self.item_modality is None else np.asarray(self.item_modality[at])
        return Items(rows, modality, bounds)

    def tokens_within(self, document: int, stop: int) -> npt.NDArray[np.int64]:
        """(M,) tokens of each modality among its first `stop` tokens."""
        rows, modality = self.items_of(document)
        tokens = np.zeros(len(self.vocabulary.names), np.int64)
        np.add.at(tokens, modality, np.clip(stop - rows[:, 0], 0, rows[:, 1]))
        tokens[0] = stop - tokens.sum()
        return tokens

    def totals(self, documents: npt.NDArray[np.int64] | slice) -> npt.NDArray[np.int64]:
        """(n, 2, M): items and tokens of each modality in all documents before each of these."""
        if self.before is not None:
            return np.asarray(self.before[documents])
        pictures, tokens = self.item_index[documents], self.offsets[documents]
        codes = self.vocabulary.modalities[1].block * pictures
        totals = np.zeros((*codes.shape, 2, 2), np.int64)
        totals[..., 0, 1], totals[..., 1, 0], totals[..., 1, 1] = pictures, tokens - codes, codes
        return totals

    def release(self) -> None:
        """Give back the pages of mapped files that were touched so far (each entry may have cost a read-ahead)."""
        for array in (self.offsets, self.item_index, self.before):
            if array is not None and isinstance(array.base, mmap.mmap):
                array.base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Corpus:
    """A finished corpus. `manifest` is the parsed manifest.json."""

    path: Path
    vocabulary: Vocabulary
    manifest: dict[str, Any]
    train: Split
    validation: Split

    @classmethod
    def open(cls, path: Path | str, tokenizer: Mapping[str, str] | None = None, verify: bool = False) -> Corpus:
        """Checks sizes always, checksums below 256 MB or with `verify`, and that it was made with `tokenizer`.

        Raises UserError for a folder that is missing, unfinished, of another version, truncated or corrupted, and for
        another tokenizer.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if tokenizer is not None:
            check_tokenizers(path, manifest, tokenizer)
        check_files(path, manifest, verify)
        vocabulary = Vocabulary.from_dict(manifest["vocabulary"])
        marked = f"{GIVEN}.npy" in manifest["splits"]["train"]["files"]
        splits = [_open_split(path / name, manifest["splits"][name], vocabulary, marked) for name in SPLITS]
        return cls(path, vocabulary, manifest, *splits)


def unfinished(path: Path) -> Path:
    """The folder beside `path` where the corpus is written until it is whole."""
    return path.with_name(path.name + ".unfinished")


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises UserError where there is no finished corpus of this version."""
    if not path.is_dir():
        state = "the corpus is not finished" if unfinished(path).is_dir() else "no such corpus"
        raise UserError(f"data.path={path}: {state}; make it with python -m momafuse.prepare data=NAME data.path={path}")
    file = path / MANIFEST
    if not file.is_file():
        raise UserError(f"data.path={path}: this folder holds no finished corpus ({MANIFEST} is missing); {_REMAKE}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"data.path={path}: {MANIFEST} is corrupted; {_REMAKE}") from error
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise UserError(f"data.path={path}: corpus version {version}, but this momafuse reads {known}; {_REMAKE}")
    if missing := [key for key in _MANIFEST_KEYS if key not in manifest]:
        raise UserError(f"data.path={path}: {MANIFEST} is corrupted ({', '.join(missing)} missing); {_REMAKE}")
    return manifest


def check_files(path: Path, manifest: dict[str, Any], verify: bool = False) -> None:
    """Sizes always; checksums below ALWAYS_HASHED bytes in all, or with `verify`. Raises UserError naming the file."""
    listed = {f"{split}/{name}": facts for split in SPLITS for name, facts in manifest["splits"][split]["files"].items()}
    hashed = verify or sum(facts["bytes"] for facts in listed.values()) < ALWAYS_HASHED
    for name, facts in listed.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != facts["bytes"]:
            state = "is missing" if size is None else f"is truncated: {size} of {facts['bytes']} bytes"
            raise UserError(f"data.path={path}: {name} {state}; {_REMAKE}")
        if hashed and file_sha256(file) != facts["sha256"]:
            raise UserError(f"data.path={path}: {name} is corrupted (its checksum differs); {_REMAKE}")


def check_tokenizers(path: Path, manifest: dict[str, Any], tokenizer: Mapping[str, str]) -> None:
    """Raises UserError where a tokenizer's fingerprint is not the one in the manifest."""
    for kind, (name, fingerprint) in tokenizer_fingerprints(tokenizer).items():
        made_with = manifest["tokenizers"].get(kind)
        if made_with is None:
            known = ", ".join(manifest["tokenizers"])
            raise UserError(f"tokenizer.{kind}={name}: the corpus {path} has only {known}; leave it out or prepare another")
        if made_with["fingerprint"] != fingerprint:
            raise UserError(
                f"tokenizer.{kind}={name}: the corpus {path} was made with {made_with['name']} "
                f"({made_with['fingerprint'][:8]}, not {fingerprint[:8]}); set tokenizer.{kind}={made_with['name']} "
                "or prepare another"
            )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_fingerprint(facts: dict[str, Any]) -> str:
    """Of a split's entry in the manifest: the checksums of its files and the ranges of its sources."""
    order = {"files": {name: f["sha256"] for name, f in facts["files"].items()}, "sources": facts["sources"]}
    return hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()


def token_dtype(vocabulary: Vocabulary) -> npt.DTypeLike:
    return np.uint16 if vocabulary.size <= 65_536 else np.uint32


def _open_split(folder: Path, facts: dict[str, Any], vocabulary: Vocabulary, marked: bool) -> Split:
    """`marked`: whether the training split has given segments."""
    dtype = token_dtype(vocabulary)
    tokens = np.memmap(folder / "tokens.bin", dtype, mode="r") if facts["tokens"] else np.zeros(0, dtype)
    files = {field: f"{name}.npy" for field, name in (FILES[layout_of(vocabulary)] | {GIVEN: GIVEN}).items()}
    held = {field: np.load(folder / file, mmap_mode="r") for field, file in files.items() if file in facts["files"]}
    arrays = {GIVEN: NO_SPANS if marked else None} | held
    sources = tuple(source_info(entry, vocabulary) for entry in facts["sources"])
    fingerprint = split_fingerprint(facts)
    return Split(tokens=tokens, **arrays, sources=sources, fingerprint=fingerprint, vocabulary=vocabulary, path=folder)


_REMAKE = "delete it and run python -m momafuse.prepare again"
