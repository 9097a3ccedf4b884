"""Every reader hands over the same shape of dataset, with stable keys and splits, without a network or a cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from momafuse.config.schema import SourceConfig
from momafuse.data.sources import FEATURE_NAMES, Item, Raw, Source, Stream, features, held_out, open_source, register, registry
from momafuse.errors import UserError
from tests.data.corpora import source, write_conversations, write_pictures, write_texts

pytestmark = pytest.mark.usefixtures("no_cache")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, SourceConfig]:
    write_pictures(tmp_path / "pictures", 7)
    write_texts(tmp_path / "texts" / "a.jsonl", 9)
    return {
        "captioned_folder": source("captioned_folder", tmp_path / "pictures"),
        "text_files": source("text_files", tmp_path / "texts"),
        "conversations": source("conversations", write_conversations(tmp_path / "chats", 9)),
    }


def items(config: SourceConfig, skip: int = 0) -> list[Item]:
    return list(open_source("mine", config).items(skip))


@pytest.mark.parametrize("reader", ["captioned_folder", "text_files", "conversations", "starter_pictures", "starter_glosses"])
def test_all_readers_give_one_shape(folders: dict[str, SourceConfig], reader: str) -> None:
    config = folders.get(reader) or source(reader, None)
    opened = open_source("mine", config)
    if isinstance(opened.dataset, Dataset):
        assert opened.dataset.features == features()
    else:
        assert isinstance(opened.dataset, Stream)
    whole = list(opened.items())
    assert len(whole) > 5
    assert {item.split for item in whole} == {"train", "validation"}
    assert len({item.key for item in whole}) == len(whole)
    assert list(opened.items(3)) == whole[3:]
    assert items(config) == whole
    assert open_source("mine", config).fingerprint == opened.fingerprint


def test_the_pack_is_whole() -> None:
    pictures, glosses = items(source("starter_pictures", None)), items(source("starter_glosses", None))
    assert len(pictures) > 3000
    assert len(glosses) > 110_000
    for item in pictures:
        picture, caption = item.segments
        assert isinstance(picture, Raw)
        assert picture.read()[8:12] == b"WEBP"
        assert isinstance(caption, str)
        assert caption
    assert sum(item.split == "validation" for item in pictures) > 100
    assert sum(item.split == "validation" for item in glosses) > 2000
    words: dict[str, set[str]] = {"train": set(), "validation": set()}
    for item in glosses:
        (text,) = item.segments
        assert isinstance(text, str)
        words[item.split].add(text.partition(":")[0].lower())
    assert not words["train"] & words["validation"]


def test_the_packs_neighbours_are_a_sample_of_it() -> None:
    """In the pack's own order the first thousand pictures are all clip art."""
    first = [item.key.partition("/")[0] for item in items(source("starter_pictures", None))[:200]]
    assert 40 < first.count("fluent3d") < 160


def test_a_damaged_pack_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = {"files": {"captions.jsonl.xz": {"sha256": "0"}}, "pack_sha256": "0"}
    monkeypatch.setattr("momafuse.data.sources.starter._manifest", lambda: damaged)
    with pytest.raises(UserError, match=r"captions\.jsonl\.xz of the embedded pack starter-1 is damaged"):
        open_source("mine", source("starter_pictures", None))


def test_a_captioned_folder_keeps_paths_and_captions(tmp_path: Path) -> None:
    captions = write_pictures(tmp_path, 10)
    found = items(source("captioned_folder", tmp_path))
    assert {item.key: item.segments[1] for item in found} == captions
    for item in found:
        assert isinstance(item.segments[0], Raw)
        assert item.segments[0].read() == (tmp_path / item.key).read_bytes()


def test_captions_may_stand_in_jsonl_under_caption(tmp_path: Path) -> None:
    captions = write_pictures(tmp_path, 4)
    (tmp_path / "metadata.csv").unlink()
    lines = [json.dumps({"file_name": key, "caption": text, "stars": 3}) for key, text in captions.items()]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert {item.key: item.segments[1] for item in items(source("captioned_folder", tmp_path))} == captions


def test_text_files_are_read_as_they_are(tmp_path: Path) -> None:
    texts = ["one  document\n\nwith\tblanks \n", "\u00e9\u4e2d\U0001f600"]
    for n, text in enumerate(texts):
        (tmp_path / f"{n}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "blank.txt").write_text(" \n")
    assert [item.segments for item in items(source("text_files", tmp_path))] == [(text,) for text in texts]


def test_rows_are_documents_in_jsonl_and_parquet(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "j" / "deep" / "a.jsonl", 5)
    (tmp_path / "j" / "z.jsonl").write_text('{"text": null, "n": 1}\n\n{"text": "last\\ud800", "n": "2", "m": []}\n')
    (tmp_path / "p").mkdir()
    Dataset.from_dict({"m": [1.5], "text": ["other columns"]}).to_parquet(tmp_path / "p" / "b.parquet")
    Dataset.from_dict({"text": texts, "n": list(range(5))}).to_parquet(tmp_path / "p" / "a.parquet")
    assert [i.segments for i in items(source("text_files", tmp_path / "j"))] == [(t,) for t in [*texts, "last\ufffd"]]
    assert [i.segments for i in items(source("text_files", tmp_path / "p"))] == [(t,) for t in [*texts, "other columns"]]
    assert [i.segments for i in items(source("text_files", tmp_path / "j" / "z.jsonl"))] == [("last\ufffd",)]


def test_about_two_percent_are_held_out_and_the_first_always(tmp_path: Path) -> None:
    assert abs(sum(held_out(f"k{n}") for n in range(20_000)) / 20_000 - 0.02) < 0.004
    write_texts(tmp_path / "a.jsonl", 3)
    splits = [item.split for item in items(source("text_files", tmp_path))]
    assert splits[0] == "validation"
    assert "train" in splits


def test_another_file_moves_no_document_between_splits(tmp_path: Path) -> None:
    write_texts(tmp_path / "b.jsonl", 300)
    config = source("text_files", tmp_path)
    before, old = {i.key: i.split for i in items(config)[1:]}, open_source("mine", config).fingerprint
    write_texts(tmp_path / "a.jsonl", 20)
    after = {i.key: i.split for i in items(config)}
    assert {key: after[key] for key in before} == before
    assert open_source("mine", config).fingerprint != old


def test_a_users_reader_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))

    @register("poems")
    def poems(config: SourceConfig) -> Source:
        rows = {"key": ["a"], "split": ["train"], "segments": [[{"text": "x", "image": None}]]}
        assert tuple(rows) == FEATURE_NAMES
        if config.variants == 2:  # of its own form, as before `given`
            return Source(Dataset.from_dict(rows), "1")
        return Source(Dataset.from_dict(rows, features=features()), "1")

    assert items(source("poems", None)) == items(source("poems", None, 2)) == [Item("a", "train", ("x",), given=())]
    with pytest.raises(UserError, match="poems is registered twice"):
        register("poems")(lambda config: poems(config))


def test_bad_sources_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "pictures", 3)
    write_pictures(tmp_path / "no_captions", 3)
    (tmp_path / "no_captions" / "metadata.csv").unlink()
    write_pictures(tmp_path / "other_column", 3)
    metadata = tmp_path / "other_column" / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("file_name,text", "file_name,title"))
    (tmp_path / "columns.jsonl").write_text('{"body": "a"}\n')
    (tmp_path / "broken.jsonl").write_text('{"text": \n')
    Dataset.from_dict({"body": ["a"]}).to_parquet(tmp_path / "columns.parquet")
    for config, message in (
        (source("nonesuch", None), r"reader=nonesuch: no such reader; there are captioned_folder"),
        (source("text_files", None), r"path=null"),
        (source("text_files", tmp_path / "missing"), r"path=.*missing: no such file or folder"),
        (source("captioned_folder", tmp_path / "missing"), r"path=.*missing: no such file or folder"),
        (source("captioned_folder", tmp_path / "empty"), r"path=.*empty: no pictures in this folder"),
        (source("captioned_folder", tmp_path / "no_captions"), r"path=.*: no captions; write metadata\.csv"),
        (
            source("captioned_folder", tmp_path / "other_column"),
            r"path=.*: metadata\.csv has no column text or caption; it has file_name, title: name one by caption=COLUMN",
        ),
        (source("text_files", tmp_path / "pictures"), r"path=.*pictures: no text here"),
        (
            source("text_files", tmp_path / "columns.jsonl"),
            r"path=.*: cannot read a column text from the files: columns\.jsonl, row 1: a line without .text.: .*body",
        ),
        (
            source("text_files", tmp_path / "columns.parquet"),
            r"path=.*: cannot read a column text .*columns\.parquet: no column text; there are body",
        ),
        (
            source("text_files", tmp_path / "broken.jsonl"),
            r"path=.*: cannot read a column text from the files: broken\.jsonl, row 1: Expecting value",
        ),
    ):
        with pytest.raises(UserError, match=rf"^data\.sources\.mine\.{message}") as caught:
            open_source("mine", config)
        assert "\n" not in str(caught.value)
