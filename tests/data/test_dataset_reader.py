"""The reader `dataset` on small local files of the forms that sets come in: documents, keys, splits, going on, and errors."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, Features, Image, List, Value
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from momafuse.config.schema import SourceConfig
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Item, Raw, Source, held_out, open_source
from momafuse.data.sources.splitting import LONG
from momafuse.data.sources.streams import content_key
from momafuse.errors import UserError
from tests.data import corpora
from tests.data.tables import picture, sentence, write_json_lines, write_shards

pytestmark = pytest.mark.usefixtures("no_cache")


def source(path: str | Path, files: str | Path | None = None, **fields: Any) -> SourceConfig:
    options = fields.pop("options", {}) | ({} if files is None else {"data_files": str(files)})
    return SourceConfig("dataset", str(path), options=options, **fields)


def opened(config: SourceConfig) -> Source:
    return open_source("mine", config)


def items(config: SourceConfig) -> list[Item]:
    return list(opened(config).items())


def fails(config: SourceConfig, message: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.sources\.mine\.path={message}") as caught:
        opened(config)
    assert "\n" not in str(caught.value)


def bytes_of(item: Item) -> list[str | bytes]:
    return [segment.read() if isinstance(segment, Raw) else segment for segment in item.segments]


def test_tars_are_pairs_under_the_names_of_their_rows(tmp_path: Path) -> None:
    config = source("webdataset", write_shards(tmp_path / "s") / "*.tar", image="jpg", caption="txt")
    found = items(config)
    assert [bytes_of(item) for item in found] == [[picture(n), sentence(n)] for n in range(24)]
    assert [item.key for item in found] == [f"cc3m-train-{s:04d}/{n:09d}" for s in range(2) for n in range(12)]
    assert found[0].split == "validation"
    assert items(replace(config, caption="json.caption")) == found
    assert items(replace(config, path=str(tmp_path / "s"), options={})) == found
    fails(
        replace(config, caption="json.captions"), r"webdataset: nothing is under json\.captions; json holds caption, exif, key"
    )
    fails(
        replace(config, caption="text"),
        "webdataset: no column text; there are jpg, json, txt, __key__, __url__: name one by cap",
    )
    fails(replace(config, caption=None), "webdataset: no column text or caption; there are ")
    fails(replace(config, image="png"), "webdataset: no column png; there are jpg, .*: name one by image=COLUMN")
    fails(replace(config, image=None), "webdataset: no column text; there are .*: name one by text=COLUMN")
    fails(replace(config, image=None, text="jpg"), r"webdataset: row 1: jpg: \{.* is no text; name other columns")


def test_going_on_is_exact(tmp_path: Path) -> None:
    """Also where rows are left out, and where one row is several documents."""
    rows = [{"text": "" if n % 4 == 3 else f"{n} " * (LONG if n == 5 else 9)} for n in range(40)]
    path = write_json_lines(tmp_path / "a.jsonl.gz", rows)
    for config in (
        source("json", path),
        source("webdataset", write_shards(tmp_path / "s") / "*.tar", image="jpg", caption="txt"),
    ):
        whole = opened(config)
        found = list(whole.items())
        assert len({item.key for item in found}) == len(found) > 20
        for skip in (0, 1, 7, 20, len(found) - 1, len(found), len(found) + 5):
            assert list(whole.items(skip)) == found[skip:]
            assert list(opened(config).items(skip)) == found[skip:]


def test_texts_have_the_keys_and_splits_of_text_files(tmp_path: Path) -> None:
    texts = corpora.write_texts(tmp_path / "t" / "a.jsonl", 300)
    expected = list(open_source("t", corpora.source("text_files", tmp_path / "t")).items())
    assert items(source("json", tmp_path / "t" / "*.jsonl")) == items(source(tmp_path / "t")) == expected
    Dataset.from_dict({"body": texts, "text": [""] * 300}).to_parquet(tmp_path / "a.parquet")
    found = items(source("parquet", tmp_path / "a.parquet", text="body"))
    assert [item.segments for item in found] == [(text,) for text in texts]
    assert [item.split for item in found[1:]] == [item.split for item in expected[1:]]
    half = items(source("parquet", tmp_path / "a.parquet", text="body", held_out=0.5))
    assert [item.split == "validation" for item in half[1:]] == [held_out(item.key, 0.5) for item in half[1:]]


@pytest.mark.parametrize("form", ["structs", "bytes", "paths"])
def test_pictures_in_parquet(tmp_path: Path, form: str) -> None:
    """As the feature Image, which is not decoded, as bytes, and as paths from the files' folder on."""
    count = 9
    data = [picture(n) for n in range(count)]
    (tmp_path / "p").mkdir()
    for n in range(count):
        (tmp_path / "p" / f"{n}.jpg").write_bytes(data[n])
    images: list[Any] = {
        "structs": [{"bytes": d, "path": "elsewhere.jpg"} for d in data],
        "bytes": data,
        "paths": [f"p/{n}.jpg" for n in range(count)],
    }[form]
    kind = {"structs": Image(), "bytes": Value("binary"), "paths": Value("string")}[form]
    columns = {"picture": images, "caption": [sentence(n) for n in range(count)], "other": images}
    features = Features({"picture": kind, "caption": Value("string"), "other": kind})
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "a.parquet")
    config = source("parquet", tmp_path / "a.parquet", image="picture")
    found = items(config)
    assert [bytes_of(item) for item in found] == [[data[n], sentence(n)] for n in range(count)]
    assert len({item.key for item in found}) == count
    if form == "paths":
        moved = tmp_path.with_name(f"{tmp_path.name}-moved")
        tmp_path.rename(moved)
        again = items(source(moved, image="picture", options={"data_files": "a.parquet"}))
        moved.rename(tmp_path)
        assert [item.key for item in again] == [item.key for item in found]


def test_one_picture_is_on_one_side(tmp_path: Path) -> None:
    """With each of its captions in a list, and again in another row; keys differ by the caption."""
    rows = {
        "image": [{"bytes": picture(n % 20), "path": None} for n in range(60)],
        "caption": [[f"a {n}", " ", f"b {n}"] if n % 3 else [f"c {n}"] for n in range(60)],
    }
    features = Features({"image": Image(), "caption": List(Value("string"))})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    found = items(source("parquet", tmp_path / "a.parquet", image="image", held_out=0.3))
    assert len({item.key for item in found}) == len(found) == 100
    sides: dict[Any, set[str]] = {}
    for item in found:
        sides.setdefault(bytes_of(item)[0], set()).add(item.split)
    assert len(sides) == 20
    assert all(len(side) == 1 for side in sides.values())
    assert {item.split for item in found} == {"train", "validation"}


def test_groups_are_held_out_whole(tmp_path: Path) -> None:
    rows = [{"text": f"text {n} " * (LONG if n == 3 else 1), "site": f"s{n % 8}", "n": {"m": n % 8}} for n in range(80)]
    path = write_json_lines(tmp_path / "a.jsonl", rows)
    config = source("json", path, held_out=0.4, group="site")
    splits = {f"s{k}": {item.split for n, item in enumerate(items(config)) if n % 8 == k} for k in range(8)}
    assert splits["s0"] == {"validation"}
    assert all(
        split == {"validation" if held_out(content_key(g), 0.4) else "train"} for g, split in splits.items() if g != "s0"
    )
    assert {s for split in splits.values() for s in split} == {"train", "validation"}
    assert len(items(replace(config, group="n.m"))) == 80
    fails(replace(config, group="page"), "json: no column page; there are text, site, n: name one by group=COLUMN")


def test_a_split_may_be_held_out_or_trained_on_whole(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_json_lines(tmp_path / f"{split}.jsonl", [{"text": f"{split} {n}"} for n in range(9)])
    held = opened(source(tmp_path, held_out=1.0, options={"split": "validation"}))
    assert held.held_out_only
    assert [(item.segments, item.split) for item in held.items()] == [((f"validation {n}",), "validation") for n in range(9)]
    assert {item.split for item in items(source(tmp_path, held_out=0.0))} == {"train"}
    fails(
        source(tmp_path, options={"split": "test"}),
        r".*: Bad split: test\. .*'train', 'validation'.*; choose one by options\.split",
    )


def test_lists_are_interleaved_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    images: list[Any] = [[{"bytes": picture(0), "path": None}, None, {"bytes": None, "path": "a.jpg"}, None], [None]]
    rows = {"images": images, "texts": [[None, "one\n\n", None, "two"], ["three"]], "metadata": ["[]", "[]"]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    config = source("parquet", tmp_path / "a.parquet", image="images", text="texts")
    found = items(config)
    assert [bytes_of(item) for item in found] == [[picture(0), "one\n\n", picture(1), "two"], ["three"]]
    assert found == list(open_source("o", corpora.source("obelics", tmp_path)).items())
    features = Features({"images": List(Image()), "texts": List(Value("string"))})
    rows = {"images": [[None, images[0][0]]], "texts": [["first", None]]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "b.parquet")
    (item,) = items(source("parquet", tmp_path / "b.parquet", image="images", text="texts"))
    assert bytes_of(item) == ["first", picture(0)]
    path = write_json_lines(tmp_path / "b.jsonl", [{"images": ["a.jpg"], "texts": "one"}])
    fails(source("json", path, image="images", text="texts"), "json: row 1: images and texts are no lists of one length; name")


def test_folders_of_pictures_with_a_table(tmp_path: Path) -> None:
    """imagefolder's own form, loose and in an archive; both are read when they are encoded."""
    table = "".join(json.dumps({"file_name": f"{n}.jpg", "text": sentence(n)}) + "\n" for n in range(8))
    (tmp_path / "loose").mkdir()
    (tmp_path / "zipped").mkdir()
    for n in range(8):
        (tmp_path / "loose" / f"{n}.jpg").write_bytes(picture(n))
    (tmp_path / "loose" / "metadata.jsonl").write_text(table)
    with zipfile.ZipFile(tmp_path / "zipped" / "train.zip", "w") as archive:
        archive.writestr("metadata.jsonl", table)
        for n in range(8):
            archive.writestr(f"{n}.jpg", picture(n))
    for name in ("loose", "zipped"):
        found = items(source("imagefolder", options={"data_dir": str(tmp_path / name)}, image="image"))
        assert sorted(map(repr, map(bytes_of, found))) == sorted(repr([picture(n), sentence(n)]) for n in range(8))
        assert all(isinstance(item.segments[0], Raw) and item.segments[0].data is None for item in found)


def test_addresses_are_not_fetched(tmp_path: Path) -> None:
    rows = [{"url": f"https://example.org/{n}.jpg", "text": "a"} for n in range(30)]
    path = write_json_lines(tmp_path / "a.jsonl", rows)
    fails(
        source("json", path, image="url"),
        r"json: url holds addresses \(https://example\.org/0\.jpg\), none of them fetched; fetch",
    )
    (tmp_path / "here.jpg").write_bytes(picture(0))
    write_json_lines(path, [{"url": "here.jpg", "text": "b"}, *rows[:1]])
    with pytest.raises(UserError, match=r"1 of 2 documents cannot be used, .*https://example\.org/0\.jpg is an address"):
        prepare_corpus(corpora.config({"p": source("json", path, image="url")}), tmp_path / "corpus", corpora.encoder())
    documents = {"images": [[rows[0]["url"], None]], "texts": [[None, "a"]]}
    Dataset.from_dict(documents).to_parquet(tmp_path / "o.parquet")
    fails(
        source("parquet", tmp_path / "o.parquet", image="images", text="texts"), "parquet: images holds addresses .*img2dataset"
    )


def test_what_is_no_picture_is_rejected_and_what_has_no_text_left_out(tmp_path: Path) -> None:
    rows = {
        "image": [{"bytes": picture(n), "path": None} for n in range(6)]
        + [None, {"bytes": picture(9)[:60], "path": None}, None],
        "text": ["a", None, " ", "d", "e", "f", "g", "h", None],
    }
    features = Features({"image": Image(), "text": Value("string")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    config = corpora.config({"p": source("parquet", tmp_path / "a.parquet", image="image")})
    with pytest.raises(UserError, match=r"2 of 6 documents cannot be used"):
        prepare_corpus(config, tmp_path / "corpus", corpora.encoder())


def test_a_row_of_another_form_further_on_is_named(tmp_path: Path) -> None:
    rows = {"images": [[None]] * 30, "texts": [["a"]] * 29 + [["a", "b"]]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    found = opened(source("parquet", tmp_path / "a.parquet", image="images", text="texts"))
    with pytest.raises(ValueError, match=r"^row 30: images and texts are no lists of one length"):
        list(found.items())


def test_fingerprints_follow_the_files_and_the_options(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    config = source("json", path)
    first = opened(config).fingerprint
    assert opened(config).fingerprint == first
    assert opened(source("json", tmp_path / "*.jsonl")).fingerprint == first
    assert opened(source("json", path, options={"encoding": "latin-1"})).fingerprint != first
    write_json_lines(tmp_path / "b.jsonl", [{"text": "b"}])
    assert opened(source("json", tmp_path / "*.jsonl")).fingerprint != first
    write_json_lines(path, [{"text": "other"}])
    assert opened(config).fingerprint != first


def test_a_set_may_be_taken_into_the_cache_first(tmp_path: Path) -> None:
    whole: dict[str, Any] = {"streaming": False, "cache_dir": str(tmp_path / "c")}
    config = source("webdataset", write_shards(tmp_path / "s", details=False) / "*.tar", image="jpg", caption="txt")
    assert items(replace(config, options=config.options | whole)) == items(config)
    config = source("webdataset", write_shards(tmp_path / "t") / "*.tar", image="jpg", caption="txt")  # changing JSON
    assert len(items(config)) == 24
    fails(replace(config, options=config.options | whole), "webdataset: Couldn't cast array of type string to null; check path")


def test_files_that_are_not_there_or_no_such(tmp_path: Path) -> None:
    fails(source("json", tmp_path / "*.jsonl"), r"json: no files are where options\.data_files=.* says; check it")
    fails(source("json"), r"json: no files are named; give options\.data_files=FILES")
    fails(source(tmp_path / "none"), r".*none: .*; check path and options\.data_files")
    with pytest.raises(UserError, match=r"mine\.path=null: the reader dataset needs one; give a set of the hub, "):
        opened(SourceConfig("dataset"))
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": \n')
    fails(source("json", path), "json: .*; ")
    path.write_text("")
    fails(source("json", path), "json: .*; ")
    fails(source("json", path, options={"nonesuch": 3}), "json: .*nonesuch.*; check path and options, which are those of")
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    fails(source("webdataset", tmp_path / "a.tar", image="jpg"), "webdataset: .*; ")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            TimeoutError("timed out"),
            r"no such folder, and the hub cannot be reached \(timed out\); check the network, set HF_HUB",
        ),
        (RepositoryNotFoundError, r"no such folder, and no such set on the hub that you may read; check the name, or log in"),
        (RevisionNotFoundError, r"no revision main of it on the hub; check options\.revision"),
    ],
)
def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, answer: Any, message: str) -> None:
    asked = []

    def info(self: HfApi, name: str, *, revision: str, timeout: float) -> None:
        asked.append((name, revision, timeout))
        raise answer if isinstance(answer, Exception) else answer.__new__(answer)  # its arguments change with versions

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", info)
    fails(source("org/set", options={"revision": "main"}), f"org/set: {message}")
    assert asked == [("org/set", "main", 10.0)]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (DatasetNotFoundError("Dataset 'org/set' is a gated dataset on the Hub."), "; ask for access on its page, then log in"),
        (RuntimeError("Dataset scripts are no longer supported, but found set.py"), "; it is a program, which is not run; "),
        (
            ConnectionError("Couldn't reach 'org/set' on the Hub (OfflineModeIsEnabled)"),
            "; it is not in the cache; unset HF_HUB",
        ),
        (ValueError("BuilderConfig 'b' not found. Available: ['a']"), r"'a'\]; choose one by options\.name"),
        (ValueError("Config name is missing.\nPlease pick one among: ['a']"), r"'a'\]; choose one by options\.name"),
    ],
)
def test_sets_that_cannot_be_opened_get_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str) -> None:
    def builder(path: str, **options: Any) -> None:
        raise error

    monkeypatch.setattr(HfApi, "dataset_info", lambda self, name, **_: None)
    monkeypatch.setattr("datasets.load_dataset_builder", builder)
    fails(source("org/set"), f"org/set: .*{remedy}")


def test_a_set_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    real, seen = datasets.load_dataset_builder, []

    def builder(place: str, **options: Any) -> Any:
        seen.append((place, options))
        made = real("json", data_files=str(path), cache_dir=str(tmp_path / "c"))
        made.hash = "commit"
        return made

    monkeypatch.setattr(HfApi, "dataset_info", lambda self, name, **_: None)
    monkeypatch.setattr("datasets.load_dataset_builder", builder)
    config = source("org/set", options={"name": "small", "split": "train"})
    first = opened(config)
    assert [item.segments for item in first.items()] == [("a",), ("b",)]
    assert seen == [("org/set", {"name": "small"})]
    write_json_lines(path, [{"text": "c"}])
    assert opened(config).fingerprint == first.fingerprint
    assert opened(source("org/set", options={"name": "large"})).fingerprint != first.fingerprint
