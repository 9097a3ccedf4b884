"""Divides the captioned pictures of all sources of a corpus, once they are all there, and writes what the readers read.

Of two pictures of different sources that differ in at most 16 of the 256 bits of their difference hash, that of the earlier
source stays. Pictures of one series, and those that look alike, are a group and stand on one side: its name is its smallest
key, and one group in twenty is held out by a hash of the name, as in the starter pack.

    OUT/pairs/SOURCE/metadata.csv   file_name,text,split for the reader captioned_folder
    OUT/languages/captions.parquet  the same pictures with captions in other languages, for the reader obelics: of pictures to
                                    train on alone, since that reader holds out by content and would show held-out ones
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corpora.metadata import CAPTIONED, TRAIN, write_metadata
from numpy.typing import NDArray
from starter_pack.groups import NEAR_DISTANCE, VALIDATION_SHARE, distances, join, split_of

PAIRS, LANGUAGES = "pairs", "languages"
Row = dict[str, Any]  # of a source's record, as pairs.write describes it, with `source`
_ROWS = 1024


def divide(out: Path, records: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """Writes the tables of the sources in `records`, whose order is that in which they stay; counts by source and side.

    Deletes the pictures that another source has. Those that an earlier run deleted are passed over.
    """
    rows = [row | {"source": name} for name, found in records.items() for row in found]
    rows = [row for row in rows if (out / PAIRS / row["source"] / row["file_name"]).is_file()]
    if not rows:
        return {}
    hashes = np.stack([np.unpackbits(np.frombuffer(bytes.fromhex(row["hash"]), np.uint8)) for row in rows]).astype(bool)
    sources = [row["source"] for row in rows]
    twins = _twins(hashes, np.array([list(records).index(name) for name in sources]))
    for place in np.flatnonzero(twins):
        (out / PAIRS / sources[place] / rows[place]["file_name"]).unlink()
    rows = [row for row, twin in zip(rows, twins, strict=True) if not twin]
    groups = join([row["key"] for row in rows], [row["series"] for row in rows], hashes[~twins])
    for row, group in zip(rows, groups, strict=True):
        row["split"] = split_of(group, VALIDATION_SHARE)
    for name in records:
        own = [row for row in rows if row["source"] == name]
        if own:
            write_metadata(out / PAIRS / name, [{c: row[c] for c in CAPTIONED} for row in own], CAPTIONED)
    counts = Counter(f"{row['source']}/{row['split']}" for row in rows)
    facts = {"groups": len(set(groups)), "largest group": max(Counter(groups).values()), "in another source": int(twins.sum())}
    return dict(sorted(counts.items())) | facts | {"captions in other languages": _write_languages(out, rows)}


def _twins(hashes: NDArray[np.bool_], source: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pictures a picture of an earlier source looks like that stays itself. Rows come source by source, in order."""
    twin = np.zeros(len(hashes), bool)
    for first in range(0, len(hashes), _ROWS):
        block = slice(first, first + _ROWS)
        near = distances(hashes[block], hashes) <= NEAR_DISTANCE
        for row, close in enumerate(near, start=first):
            twin[row] = bool((close & (source < source[row]) & ~twin).any())
    return twin


def _write_languages(out: Path, rows: Sequence[Row]) -> int:
    """In the order of a hash, so that neighbours are a sample of all pictures and languages."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    found = [
        (f"../{PAIRS}/{row['source']}/{row['file_name']}", text)
        for row in rows
        if row["split"] == TRAIN
        for _, text in sorted(row["languages"].items())
    ]
    found = sorted(set(found), key=lambda pair: hashlib.sha256("\0".join(pair).encode()).digest())
    if found:
        (out / LANGUAGES).mkdir(exist_ok=True)
        columns = {"images": [[path, None] for path, _ in found], "texts": [[None, text] for _, text in found]}
        write_table(pa.table(columns), out / LANGUAGES / "captions.parquet")
    return len(found)
