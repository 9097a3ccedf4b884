"""How fast the loader is, and what opening a corpus costs. Prints one JSON object:

tokens_per_second         Loader.batch on one core, the planning of windows included
memmap_tokens_per_second  the same number of tokens, read from the same file at random places: the ceiling
memmap_ratio              the first through the second. Rounds alternate between both; all three are medians over rounds
plan_tokens_per_second    planning windows alone; every rank plans all windows of the run
open_seconds, open_mb     time and resident memory of opening a corpus of --tokens tokens (a file full of holes that
                          takes next to no disk) and making its plan

python scripts/bench_loader.py                     # a fabricated corpus with the starter set's shape
python scripts/bench_loader.py --corpus corpora/X  # one that was prepared
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from momafuse.data.corpus import MANIFEST, SPLITS, Corpus, file_sha256
from momafuse.data.layout import SourceInfo, layout_of, source_entry
from momafuse.data.loader import Loader
from momafuse.data.mixture import MAX_SHARDS
from momafuse.data.packing import PackPlan
from momafuse.tokens.vocabulary import Vocabulary

PAIRS, TEXTS = "pairs", "texts"
WINDOW = 4_096
ROUNDS = 7
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a prepared corpus (default: a fabricated one)")
    parser.add_argument("--tokens", type=float, default=1e12, help="size of the corpus for open_seconds and open_mb")
    parser.add_argument("--sequences", type=int, default=20_000, help="sequences to read")
    parser.add_argument("--micro-batch", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure_open(fabricate_sparse(Path(folder) / "large", int(arguments.tokens)))
        path = arguments.corpus or fabricate(Path(folder) / "small")
        result = measure_reading(path, arguments.sequences, arguments.micro_batch) | result
    print(json.dumps(result))


def measure_open(path: Path) -> dict[str, float]:
    before, start = resident_mb(), time.perf_counter()
    corpus = Corpus.open(path)
    plan = PackPlan(corpus.train, (2048, 2048), {PAIRS: 1.0, TEXTS: 1.0}, 0, WINDOW)
    seconds, grown = time.perf_counter() - start, resident_mb() - before
    assert plan.sequences_per_epoch > 0
    return {"open_seconds": round(seconds, 3), "open_mb": round(grown, 1)}


def measure_reading(path: Path, sequences: int, micro_batch: int) -> dict[str, float]:
    corpus = Corpus.open(path)
    block, weights = corpus.vocabulary.modality("image").block, {s.name: 1.0 for s in corpus.train.sources}
    budget = (2 * block, 2 * block)
    length, count = sum(budget), sequences // micro_batch
    plan = PackPlan(corpus.train, budget, weights, 0, WINDOW)
    loader = Loader(corpus.train, corpus.vocabulary, plan, budget)
    places = np.random.default_rng(0).integers(0, len(corpus.train.tokens) - length, (count, micro_batch))
    reading, plain, planning = [], [], []
    for number in range(ROUNDS + 1):
        plan = PackPlan(corpus.train, budget, weights, number, WINDOW)  # nothing cached
        loader = Loader(corpus.train, corpus.vocabulary, plan, budget)
        start = time.perf_counter()
        for i in range(count):
            loader.batch(range(i * micro_batch, (i + 1) * micro_batch))
        reading.append(time.perf_counter() - start)
        start = time.perf_counter()
        for row in places:
            np.stack([corpus.train.tokens[p : p + length] for p in row])
        plain.append(time.perf_counter() - start)
        planning.append(plan_seconds(PackPlan(corpus.train, budget, weights, ROUNDS + number, WINDOW), sequences))
    tokens = count * micro_batch * length
    return {
        "tokens_per_second": round(tokens / np.median(reading[1:])),  # the first round touches the file
        "memmap_tokens_per_second": round(tokens / np.median(plain[1:])),
        "memmap_ratio": round(float(np.median(np.divide(plain, reading)[1:])), 3),
        "plan_tokens_per_second": round(length / np.median(planning[1:])),
    }


def plan_seconds(plan: PackPlan, sequences: int) -> float:
    """Of a sequence."""
    planned, start = 0, time.perf_counter()
    while planned < sequences:
        epoch, window, _ = plan.find(planned)
        planned += len(plan.window(epoch, window).first) - 1
    return (time.perf_counter() - start) / planned


def resident_mb() -> float:
    """Resident memory of this process, mapped pages of files included."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / MB


def fabricate(path: Path, pairs: int = 12_200, texts: int = 115_000) -> Path:
    """A corpus with the starter set's shape: pictures of 64 codes, captions of 16 tokens and texts of 22 on average."""
    rng, vocabulary = np.random.default_rng(0), Vocabulary.build(4088, image=(8192, 64))
    text = vocabulary.modality("text")
    lengths = np.concatenate([70 + np.minimum(rng.geometric(1 / 10, pairs), 100), 2 + rng.geometric(1 / 20, texts)])
    offsets = np.append(0, np.cumsum(lengths))
    tokens = rng.integers(text.first, text.first + text.count, offsets[-1], dtype=np.uint16)
    first = offsets[:pairs] + 2  # bos, begin_image, codes
    codes = vocabulary.modality("image")
    tokens[first[:, None] + np.arange(64)] = rng.integers(codes.first, codes.first + codes.count, (pairs, 64))
    tokens[first - 1], tokens[first + 64] = vocabulary.modality("image").frame
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = vocabulary.specials.bos, vocabulary.specials.eos
    sources = _sources(pairs, int(offsets[pairs]), texts, int(offsets[-1] - offsets[pairs]), 64)
    arrays = {
        "offsets": offsets,
        "images": np.stack([first, np.full(pairs, 64)], axis=1),
        "image_index": np.minimum(np.arange(pairs + texts + 1), pairs),
        "kinds": np.repeat(np.array([0, 2], dtype=np.uint8), [pairs, texts]),
        "counts": np.bincount(tokens, minlength=vocabulary.size),
    }
    for split in SPLITS:
        (path / split).mkdir(parents=True)
        tokens.tofile(path / split / "tokens.bin")
        for name, array in arrays.items():
            np.save(path / split / f"{name}.npy", array)
    return _finish(path, vocabulary, {split: (sources, len(tokens)) for split in SPLITS}, hashed=True)


def fabricate_sparse(path: Path, tokens: int, picture: int = 1024, pair: int = 1104, text: int = 1000) -> Path:
    """A corpus of that many tokens, half in pairs, of which only what opening reads is on disk."""
    pairs, texts = tokens // 2 // pair, tokens // 2 // text
    fabricate(path)  # its validation split stays as it is
    train, documents = path / "train", pairs + texts
    with (train / "tokens.bin").open("wb") as file:
        file.truncate(2 * (pairs * pair + texts * text))
    bounds = [
        first + np.append(np.arange(0, count, max(WINDOW, -(-count // MAX_SHARDS))), count)
        for first, count in ((0, pairs), (pairs, texts))
    ]
    at = np.unique(np.concatenate(bounds))
    offsets = np.minimum(at, pairs) * pair + np.maximum(at - pairs, 0) * text
    _write_holes(train / "offsets.npy", (documents + 1,), np.int64, at, offsets)
    _write_holes(train / "image_index.npy", (documents + 1,), np.int64, at, np.minimum(at, pairs))
    _write_holes(train / "images.npy", (pairs, 2), np.int64)
    _write_holes(train / "kinds.npy", (documents,), np.uint8)
    sources = _sources(pairs, pairs * pair, texts, texts * text, picture)
    return _finish(path, Vocabulary.build(57_336, image=(8192, picture)), {"train": (sources, tokens)}, hashed=tokens < 10**9)


def _write_holes(path: Path, shape: tuple[int, ...], dtype: Any, at: Any = (), values: Any = ()) -> None:
    """An .npy file of that shape in which only the entries `at` are written."""
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin, size = file.tell(), np.dtype(dtype).itemsize
        file.truncate(begin + size * int(np.prod(shape)))
        for place, value in zip(at, np.asarray(values, dtype), strict=True):
            os.pwrite(file.fileno(), value.tobytes(), begin + size * int(place))


def _sources(pairs: int, pair_tokens: int, texts: int, text_tokens: int, picture: int) -> list[SourceInfo]:
    codes = pairs * picture
    return [
        SourceInfo(PAIRS, 0, pairs, (pair_tokens - codes, codes), (0, pairs)),
        SourceInfo(TEXTS, pairs, texts, (text_tokens, 0), (0, 0)),
    ]


def _finish(path: Path, vocabulary: Vocabulary, splits: dict[str, tuple[list[SourceInfo], int]], hashed: bool) -> Path:
    """Write the manifest that Corpus.open reads: sources and tokens of every split; those not given stay as they were."""

    def facts(file: Path) -> dict[str, Any]:
        return {"bytes": file.stat().st_size, "sha256": file_sha256(file) if hashed else ""}

    manifest: dict[str, Any] = {"version": layout_of(vocabulary), "splits": {}, "sources": {}, "tokenizers": {}}
    if (path / MANIFEST).exists():
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    manifest["vocabulary"] = vocabulary.to_dict()
    for name, (sources, tokens) in splits.items():
        files = {file.name: facts(file) for file in sorted((path / name).iterdir())}
        manifest["splits"][name] = {"tokens": tokens, "sources": [source_entry(s, vocabulary) for s in sources], "files": files}
    (path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
