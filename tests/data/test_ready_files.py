"""configs/data: every file composes, and those that stream sets of the hub read local files of the published forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from omegaconf import OmegaConf

from momafuse.config.compose import compose, config_dir, group_options
from momafuse.config.schema import DataConfig
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Raw, open_source
from tests.data import corpora
from tests.data.tables import picture, sentence, write_json_lines, write_shards

COUNT = 300  # texts
HUB = {"c4": "allenai/c4", "cc3m": "HuggingFaceFW/fineweb-edu", "fineweb_edu": "HuggingFaceFW/fineweb-edu"}  # of texts


def composed(name: str, *words: str) -> DataConfig:
    return compose([f"data={name}", *words]).config.data


def paths(name: str) -> list[str]:
    """Words for what the file leaves to the user."""
    sources = OmegaConf.load(config_dir() / "data" / f"{name}.yaml").sources
    return [f"data.sources.{source}.path=here" for source in sources if OmegaConf.is_missing(sources[source], "path")]


def texts_of(name: str, folder: Path) -> list[str]:
    """The texts of a small copy in `folder`, as the set is published, and the words that choose it."""
    texts = [f"{sentence(n)} and so on, number {n}" for n in range(COUNT)]
    if name == "c4":
        rows = [{"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org"} for text in texts]
        write_json_lines(folder / "en" / "c4-train.00000-of-01024.json.gz", rows[: COUNT // 2])
        write_json_lines(folder / "en" / "c4-train.00001-of-01024.json.gz", rows[COUNT // 2 :])
    else:
        (folder / "sample" / "10BT").mkdir(parents=True)
        columns: dict[str, list[Any]] = {"text": texts, "id": [f"<urn:uuid:{n}>" for n in range(COUNT)]}
        columns |= {name: ["x"] * COUNT for name in ("dump", "url", "file_path", "language")}
        columns |= {
            "language_score": [0.9] * COUNT,
            "token_count": [9] * COUNT,
            "score": [3.1] * COUNT,
            "int_score": [3] * COUNT,
        }
        Dataset.from_dict(columns).to_parquet(folder / "sample" / "10BT" / "000_00000.parquet")
    return texts


def copy_of(name: str, folder: Path) -> list[str]:
    files, builder = ("en/*.json.gz", "json") if name == "c4" else ("sample/10BT/*.parquet", "parquet")
    return [f"data.sources.texts.path={builder}", f"data.sources.texts.options.data_files={folder / files}"]


@pytest.mark.parametrize("name", group_options()["data"])
def test_every_file_composes(name: str) -> None:
    speech = ["+experiment=mot_speech"] if name.startswith("spoken_") else []
    folder = ["data.path=pictures"] if name == "folder" else []
    data = composed(name, *paths(name), *speech, *folder)
    assert data.name == {"starter": "starter-2"}.get(name, name)
    assert all(
        source.path or source.reader.startswith("starter_") or name == "conversations" for source in data.sources.values()
    )


@pytest.mark.parametrize("name", HUB)
def test_texts_of_the_hub_are_read_from_a_copy(tmp_path: Path, name: str) -> None:
    texts = texts_of(name, tmp_path)
    published = composed(name, *paths(name)).sources["texts"]
    assert (published.path, published.limit) == (HUB[name], 1_000_000)
    config = composed(name, *paths(name), *copy_of(name, tmp_path)).sources["texts"]
    assert config.options["name"] == ("en" if name == "c4" else "sample-10BT")
    found = list(open_source("texts", config).items())
    assert [item.segments for item in found] == [(text,) for text in texts]
    assert found[0].split == "validation"


def test_captioned_tars_of_the_hub_are_read_from_a_copy(tmp_path: Path) -> None:
    texts_of("cc3m", tmp_path)
    write_shards(tmp_path / "tars", shards=2, each=10)
    words = ["data.sources.pictures.path=webdataset", f"data.sources.pictures.options.data_files={tmp_path}/tars/*.tar"]
    data = composed("cc3m", *words, *copy_of("cc3m", tmp_path))
    pairs = list(open_source("pictures", data.sources["pictures"]).items())
    assert [segment.read() if isinstance(segment, Raw) else segment for item in pairs for segment in item.segments] == [
        value for n in range(20) for value in (picture(n), sentence(n))
    ]
    corpus = prepare_corpus(corpora.config(data.sources), tmp_path / "corpus", corpora.encoder())
    assert corpus.train.documents + corpus.validation.documents == 20 + COUNT
    assert corpus.manifest["rejects"] == 0


def test_obelics_may_be_read_by_datasets(tmp_path: Path) -> None:
    """With the bytes of its pictures in the place of their addresses."""
    rows = {"images": [[picture(0), None]], "texts": [[None, "one"]], "metadata": ["[]"], "general_metadata": ["{}"]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    changed = {"reader": "dataset", "path": tmp_path, "image": "images", "text": "texts"}
    words = [f"data.sources.documents.{key}={value}" for key, value in changed.items()]
    data = composed("obelics", "data.sources.texts.path=here", *words)
    (item,) = open_source("documents", data.sources["documents"]).items()
    assert [segment.read() if isinstance(segment, Raw) else segment for segment in item.segments] == [picture(0), "one"]
