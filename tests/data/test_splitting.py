"""Of a long text stretches are held out, of the stated share of it and never more; short documents by their key alone."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.data.sources import Item, open_source
from momafuse.data.sources.splitting import LONG, STRETCH, split_text
from momafuse.data.sources.streams import BLOCK
from tests.data.corpora import source

WORDS = "the bird sees a tall tree\nand sings, again and again; "


def characters(items: list[Item], split: str) -> int:
    return sum(len(str(segment)) for item in items if item.split == split for segment in item.segments)


def read(path: Path) -> list[Item]:
    return list(open_source("mine", source("text_files", path)).items())


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet="ab \n\u00e9\U0001f600", min_size=1, max_size=40),
    st.integers(1, 300_000),
    st.integers(0, 1),
    st.floats(0.001, 0.5),
)
def test_nothing_is_lost_and_no_more_held_out_than_asked(word: str, length: int, number: int, share: float) -> None:
    text = (word * (length // len(word) + 1))[:length]
    parts = list(split_text(text, "key", number, share, total=10**9))
    joined = "".join(part for _, _, part in parts)
    assert joined.split() == text.split()  # blank stretches between are left out
    assert len({key for key, _, _ in parts}) == len(parts)
    if length > LONG:
        out = sum(len(part) for _, split, part in parts if split == "validation")
        assert out <= share * length
        assert all(len(part) <= STRETCH for _, split, part in parts if split == "validation")
        if word.strip() and len(word) < 5:
            assert out > 0.4 * share * length


def test_one_file_of_a_megabyte_can_be_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(WORDS * (1_500_000 // len(WORDS)))
    found = read(path)
    out = characters(found, "validation") / path.stat().st_size
    assert 0.015 < out <= 0.02
    for item in found[1:]:
        assert str(item.segments[0])[:1] in "tab"  # at the beginning of a line or a word
    assert read(path) == found


def test_one_long_text_among_five_is_not_held_out_whole(tmp_path: Path) -> None:
    for n, size in enumerate([1_600, 1_700, 2_400_000, 1_800, 1_500]):
        (tmp_path / f"{n}.txt").write_text(f"{n} " + WORDS * (size // len(WORDS)))
    found = read(tmp_path)
    out, kept = characters(found, "validation"), characters(found, "train")
    assert 0.01 < out / (out + kept) < 0.022


def test_a_file_longer_than_a_block_is_several_documents(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    lines = [f"line {n} of many\n" for n in range(BLOCK // 10)]
    path.write_text("".join(lines))
    joined = "".join(str(item.segments[0]) for item in read(path))
    assert joined == "".join(lines)


def test_what_repeats_the_first_document_is_held_out_like_it(tmp_path: Path) -> None:
    long = "a sentence of this text. " * 1600
    for name, first in (("short", "the same text"), ("long", long)):
        texts = ["", first, "another one", first, *(f"text {n}" for n in range(50)), first]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        found = read(tmp_path / f"{name}.jsonl")
        held = {str(item.segments[0]) for item in found if item.split == "validation"}
        assert held
        assert not any(str(item.segments[0]) in held for item in found if item.split == "train")
        copies = [item for item in found if item.key.startswith(found[0].key.partition(":")[0])]
        assert len(copies) % 3 == 0
        assert [item.split for item in copies[: len(copies) // 3]] * 3 == [item.split for item in copies]


def test_a_small_source_holds_something_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(WORDS * 400)
    found = read(tmp_path)
    assert {item.split for item in found} == {"train", "validation"}
    assert characters(found, "validation") <= 2048
