"""Duplicates by content and by look, over sources and splits: judged by a loop over all pairs; the corpus holds the others."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from momafuse.config.schema import SourceConfig
from momafuse.data import chunks
from momafuse.data.corpus import Corpus
from momafuse.data.duplicates import NEAR, Marks, kept
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Item, Raw
from momafuse.vision.codec import ImageCodec, decode_picture
from tests.data import corpora


def by_loop(documents: list[tuple[Item, bytes | None]], near: bool) -> list[bool]:
    """What stays: the definition, one document after the other, held-out ones first."""
    texts = [" ".join(" ".join(s for s in item.segments if isinstance(s, str)).split()) for item, _ in documents]
    raws = [[s.data for s in item.segments if isinstance(s, Raw)] for item, _ in documents]

    def bits(a: int, b: int) -> int:
        one, other = documents[a][1], documents[b][1]
        if one is None or other is None:
            return 999
        return sum((x ^ y).bit_count() for x, y in zip(one, other, strict=True))

    order = sorted(range(len(documents)), key=lambda n: (documents[n][0].split != "validation", n))
    stay: list[int] = []
    for n in order:
        if not any((texts[n], raws[n]) == (texts[m], raws[m]) for m in stay):
            stay.append(n)
    if near:
        held = [n for n in stay if documents[n][0].split == "validation"]
        stay = [n for n in stay if n in held or not any(bits(n, m) <= NEAR for m in held)]
        final: list[int] = []
        for n in stay:
            same = [m for m in final if documents[m][0].split == documents[n][0].split and texts[m] == texts[n]]
            if not any(bits(n, m) <= NEAR for m in same):
                final.append(n)
        stay = final
    return [n in stay for n in range(len(documents))]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.booleans())
def test_what_stays_is_what_a_loop_says(seed: int, count: int, near: bool) -> None:
    draw = random.Random(seed)
    looks = [draw.randbytes(32) for _ in range(3)]
    documents: list[tuple[Item, bytes | None]] = []
    for n in range(count):
        look: bytes | None = None
        segments: list[str | Raw] = [draw.choice(["a  b", "a b", "c", ""])]
        if draw.random() < 0.7:
            segments.append(Raw(draw.choice([b"1", b"2", b"3"]), None))
            base = bytearray(draw.choice(looks))
            for bit in draw.sample(range(256), draw.choice([0, 3, 8, 16, 17, 40])):
                base[bit // 8] ^= 1 << bit % 8
            look = bytes(base)
        split = "validation" if draw.random() < 0.3 else "train"
        documents.append((Item(str(n), split, tuple(segments)), look))  # type: ignore[arg-type]
    marks = Marks.build([item for item, _ in documents], [look for _, look in documents])
    assert kept(marks, "near" if near else "exact").tolist() == by_loop(documents, near)


def test_a_look_survives_what_eyes_do_not_see(tmp_path: Path) -> None:
    corpora.write_pictures(tmp_path, 6)
    codec = ImageCodec(corpora.PixelTokenizer())
    rng, looks = np.random.default_rng(0), []
    for n in range(4):
        cells = np.kron(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
        Image.fromarray(cells).save(tmp_path / f"{n}.png")
        Image.fromarray(cells).resize((64, 64)).save(tmp_path / f"{n}.jpg", quality=80)
        pair = [codec.look(decode_picture((tmp_path / f"{n}.{kind}").read_bytes(), 32)) for kind in ("png", "jpg")]
        looks.append([int.from_bytes(look) for look in pair])
        assert (looks[n][0] ^ looks[n][1]).bit_count() <= NEAR
    assert all((looks[a][0] ^ looks[b][0]).bit_count() > 2 * NEAR for a in range(4) for b in range(a))


@pytest.fixture
def doubled(tmp_path: Path) -> dict[str, SourceConfig]:
    """Ten pictures of noise, the same ones again in another folder, and texts of which one file repeats another."""
    rng = np.random.default_rng(1)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    rows = ["file_name,text,split"]
    for n in range(10):
        cells = np.kron(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        for folder in ("a", "b"):
            Image.fromarray(cells).save(tmp_path / folder / f"{n}.png", compress_level=1 if folder == "a" else 9)
        rows.append(f"{n}.png,picture {n},{'validation' if n < 2 else 'train'}")
    (tmp_path / "a" / "metadata.csv").write_text("\n".join(rows))
    (tmp_path / "b" / "metadata.csv").write_text("\n".join(rows).replace(",validation", ",train"))
    corpora.write_texts(tmp_path / "t.jsonl", 30)
    (tmp_path / "u.jsonl").write_text((tmp_path / "t.jsonl").read_text())
    return {
        "a": corpora.source("captioned_folder", tmp_path / "a", 3),
        "b": corpora.source("captioned_folder", tmp_path / "b", 3),
        "t": corpora.source("text_files", tmp_path / "t.jsonl"),
        "u": corpora.source("text_files", tmp_path / "u.jsonl"),
    }


def make(sources: dict[str, SourceConfig], path: Path, duplicates: str) -> Corpus:
    return prepare_corpus(corpora.config(sources, path, duplicates=duplicates), path, corpora.encoder())


def test_the_corpus_holds_each_once(doubled: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 4)
    alone = make({name: doubled[name] for name in ("a", "t")}, tmp_path / "alone", "keep")
    exact, near = (make(doubled, tmp_path / how, how) for how in ("exact", "near"))
    assert near.manifest["sources"]["b"]["duplicates"] == 10
    assert exact.manifest["sources"]["b"].get("duplicates", 0) == 0  # other bytes
    assert exact.manifest["sources"]["u"]["duplicates"] == near.manifest["sources"]["u"]["duplicates"] == 30
    for split in ("train", "validation"):
        kept_tokens, wanted = getattr(near, split), getattr(alone, split)
        for name in ("tokens", "offsets", "items", "item_index", "kinds"):
            np.testing.assert_array_equal(getattr(kept_tokens, name), getattr(wanted, name))
