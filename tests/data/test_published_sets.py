"""COCO, Flickr30k, VQA-v2 and OBELICS from small files of the published forms, with pictures of the starter pack, to the
tokens of a corpus; what is of another form gets one line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from datasets import Dataset

from momafuse.config.compose import compose
from momafuse.data.corpus import Corpus, Split
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Raw, open_source
from momafuse.errors import UserError
from momafuse.tokens.document import turned
from momafuse.tokens.text import TextTokenizer
from momafuse.training.setup import build
from momafuse.world import World
from tests.data import corpora
from tests.data.published import name_of, subset_of, write_coco, write_karpathy, write_vqa

COUNT = 8  # pictures


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    segments = [item.segments[0] for item in open_source("s", corpora.source("starter_pictures", None)).items()][:COUNT]
    return [picture.read() for picture in segments if isinstance(picture, Raw)]


def documents(split: Split) -> list[tuple[list[str], list[bool]]]:
    """The parts of every document, "<image>" for a picture, and whether each is given; by the vocabulary of these tests."""
    tokenizer, image = TextTokenizer.load(corpora.TEXT), range(8, 8 + corpora.PixelTokenizer.codes)
    edges = [] if split.given is None else split.given.tolist()
    found = []
    for begin, end in zip(split.offsets[:-1].tolist(), split.offsets[1:].tolist(), strict=True):
        parts: list[tuple[bool, bool, list[int]]] = []  # picture, given, ids
        for place in range(begin, end):
            token = int(split.tokens[place])
            if token < 8:  # bos, eos and the frames of pictures
                continue
            state = token in image, any(b <= place < e for b, e in edges)
            if not parts or parts[-1][:2] != state:
                parts.append((*state, []))
            parts[-1][2].append(token - image.stop)
        texts = ["<image>" if picture else tokenizer.decode(ids) for picture, _, ids in parts]
        found.append((texts, [given for _, given, _ in parts]))
    return found


def prepared(reader: str, path: Path) -> Corpus:
    config = corpora.config({"p": corpora.source(reader, path)})
    return prepare_corpus(config, path.with_name(f"{path.stem}-{reader}-corpus"), corpora.encoder())


@pytest.mark.parametrize("coco", [True, False])
def test_karpathys_splits(tmp_path: Path, pictures: list[bytes], coco: bool) -> None:
    path = write_karpathy(tmp_path / "set", pictures, coco)
    entries = json.loads(path.read_text())["images"]

    def captions(*splits: str) -> list[str]:
        return sorted(s["raw"].strip() for e in entries if e["split"] in splits for s in e["sentences"])

    corpus = prepared("karpathy", path)
    for split, names in ((corpus.train, ("train", "restval")), (corpus.validation, ("val",))):
        found = documents(split)
        assert sorted(next(p for p in parts if p != "<image>") for parts, _ in found) == captions(*names)
        assert all(sorted(parts) == sorted(["<image>", *parts][-2:]) and "<image>" in parts for parts, _ in found)
        assert split.given is None
    keys = {item.key: str(item.segments[1]) for item in open_source("p", corpora.source("karpathy", path)).items()}
    orders = {parts[parts[0] == "<image>"]: parts[0] == "<image>" for parts, _ in documents(corpus.train)}
    assert all(orders[caption] == turned(key) for key, caption in keys.items() if caption in orders)
    for reader, order in (("karpathy_i2t", 1), ("karpathy_t2i", 0)):
        corpus = prepared(reader, path.parent)
        assert corpus.train.documents == 0
        found = documents(corpus.validation)
        assert sorted(parts[order] for parts, _ in found) == captions("test")
        assert all((parts[1 - order], given) == ("<image>", [True, False]) for parts, given in found)


def test_the_published_captions_of_coco(tmp_path: Path, pictures: list[bytes]) -> None:
    folder = write_coco(tmp_path / "set", pictures)
    items = list(open_source("p", corpora.source("coco_captions", folder)).items())
    assert {item.key: (item.split, item.segments) for item in items} == {
        f"{subset_of(n)}/{40 + n}": (
            "train" if n < 5 else "validation",
            (Raw(None, str(folder / subset_of(n) / name_of(n, subset_of(n)))), f"Picture {n}."),
        )
        for n in range(COUNT)
    }
    corpus = prepared("coco_captions", folder)
    assert (corpus.train.documents, corpus.validation.documents) == (5, 3)
    (folder / "annotations" / "captions_train2014.json").unlink()
    (tmp_path / "again").symlink_to(folder)
    assert prepared("coco_captions", tmp_path / "again").train.documents == 0


def test_answers_given_picture_and_question(tmp_path: Path, pictures: list[bytes]) -> None:
    corpus = prepared("vqa_v2", write_vqa(tmp_path / "set", pictures))
    for split, numbers in ((corpus.train, range(5)), (corpus.validation, range(5, 8))):
        found = sorted(documents(split))
        assert found == [(["<image>", f"What is {n}?\n", f"it {n}"], [True, True, False]) for n in numbers]


def test_interleaved_documents(tmp_path: Path, pictures: list[bytes]) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.webp").write_bytes(pictures[0])
    paths = {"images": [["a.webp", None, None, None], [None]], "texts": [[None, "one\n\n", " ", "two"], ["three"]]}
    Dataset.from_dict(paths | {"metadata": ["[]", "[]"]}).to_parquet(folder / "a.parquet")
    assert [item.segments for item in open_source("o", corpora.source("obelics", folder)).items()] == [
        (Raw(None, str(folder / "a.webp")), "one\n\n", "two"),
        ("three",),
    ]
    corpus = prepared("obelics", folder)
    assert sorted(documents(corpus.train) + documents(corpus.validation)) == [
        (["<image>", "one\n\ntwo"], [False, False]),
        (["three"], [False]),
    ]


def test_pictures_within_the_files(tmp_path: Path, pictures: list[bytes]) -> None:
    files = [{"bytes": data, "path": None} for data in pictures[:2]]
    for name, images in (("bytes", pictures[:2]), ("structs", files)):
        path = tmp_path / f"{name}.parquet"
        Dataset.from_dict({"images": [[images[0], None, images[1]]], "texts": [[None, "between", None]]}).to_parquet(path)
        (item,) = open_source("o", corpora.source("obelics", path)).items()
        assert item.segments == (Raw(pictures[0], None), "between", Raw(pictures[1], None))


def test_what_cannot_be_decoded_is_rejected(tmp_path: Path, pictures: list[bytes]) -> None:
    folder = write_coco(tmp_path / "set", pictures)
    (folder / "train2014" / name_of(2, "train2014")).write_bytes(pictures[2][:40])
    with pytest.raises(UserError, match=r"1 of 8 documents cannot be used, .*; the first is train2014/42 \("):
        prepared("coco_captions", folder)
    address = {"images": [["https://example.org/a.jpg", None]], "texts": [[None, "a"]]}
    Dataset.from_dict(address).to_parquet(tmp_path / "o.parquet")
    with pytest.raises(UserError, match=r"1 of 1 documents cannot be used, .*https://example\.org/a\.jpg is an address"):
        prepared("obelics", tmp_path / "o.parquet")


def test_a_corpus_for_evaluation_is_not_trained_on(tmp_path: Path, pictures: list[bytes]) -> None:
    corpus = prepared("karpathy_i2t", write_karpathy(tmp_path / "set", pictures, coco=True))
    with pytest.raises(UserError, match=r"data\.path=.*: this corpus holds held-out documents alone; choose data="):
        build(compose([]).config, corpus, cast(World, None))


@pytest.mark.parametrize("data", ["coco", "flickr30k", "vqa_v2", "obelics"])
def test_the_shipped_configs_compose(data: str, tmp_path: Path) -> None:
    first = "documents" if data == "obelics" else "pictures"
    paths = [f"data.sources.{name}.path={tmp_path}" for name in (first, "texts")]
    config = compose([f"data={data}", *paths]).config
    with pytest.raises(UserError, match=rf"data\.sources\.{first}\.path=.*: no .* here; "):
        open_source(first, config.data.sources[first])


def change(path: Path, *keys: str | int, value: Any = None) -> None:
    """Sets an entry of a JSON file; without a value takes it out."""
    whole = json.loads(path.read_text())
    at = whole
    for key in keys[:-1]:
        at = at[key]
    if value is None:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("reader", "file", "keys", "message"),
    [
        ("karpathy", "dataset_coco.json", ("images",), "the file has no images of type list"),
        ("karpathy", "dataset_coco.json", ("images", 3, "split"), r"images\[3\] has no split of type str"),
        (
            "karpathy",
            "dataset_coco.json",
            ("images", 0, "sentences", 1, "raw"),
            r"images\[0\]\.sentences\[1\] has no raw of type str",
        ),
        (
            "coco_captions",
            "annotations/captions_val2014.json",
            ("images", 0),
            r"annotations\[2\]\.image_id=5: nothing has this id",
        ),
        ("coco_captions", "annotations/captions_train2014.json", ("annotations",), "the file has no annotations of type list"),
        ("vqa_v2", "v2_mscoco_val2014_annotations.json", ("annotations", 0), r"questions\[2\]\.question_id=7000: nothing has"),
        (
            "vqa_v2",
            "v2_OpenEnded_mscoco_train2014_questions.json",
            ("questions", 1, "image_id"),
            r"questions\[1\] has no image_id",
        ),
    ],
)
def test_another_form_gets_one_line(
    tmp_path: Path, pictures: list[bytes], reader: str, file: str, keys: tuple[str | int, ...], message: str
) -> None:
    if reader == "karpathy":
        write_karpathy(tmp_path, pictures, coco=True)
    else:
        {"coco_captions": write_coco, "vqa_v2": write_vqa}[reader](tmp_path, pictures)
    change(tmp_path / file, *keys)
    with pytest.raises(UserError, match=rf"data\.sources\.mine\.path=.*\.json: {message}") as caught:
        open_source("mine", corpora.source(reader, tmp_path))
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_no_json(tmp_path: Path, pictures: list[bytes]) -> None:
    folder = write_vqa(tmp_path / "v", pictures)
    (folder / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(UserError, match=r"cannot read v2_mscoco_val2014_annotations\.json: No such file"):
        open_source("mine", corpora.source("vqa_v2", folder))
    path = write_karpathy(tmp_path / "k", pictures, coco=True)
    path.with_name("dataset_flickr30k.json").write_text("{}")
    with pytest.raises(UserError, match=r"dataset_coco\.json, dataset_flickr30k\.json are here; set it to one of these files"):
        open_source("mine", corpora.source("karpathy", path.parent))
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UserError, match=r"path=.*: dataset_coco\.json: .*; it is not of the published form$"):
        open_source("mine", corpora.source("karpathy", path))


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([None], [None], r"images\[0\], texts\[0\]: one of them must be null"),
        (["a.png"], ["a"], r"images\[0\], texts\[0\]: one of them must be null"),
        ([None, "a.png"], ["a"], "images and texts are no lists of one length"),
        ([None, 3], ["a", None], r"images\[1\]: give a path, bytes, or"),
    ],
)
def test_what_is_no_interleaved_document(tmp_path: Path, images: list[Any], texts: list[Any], message: str) -> None:
    Dataset.from_dict({"images": [images], "texts": [texts]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"cannot read a column images or texts from the files: a\.parquet, row 1: {message}"):
        open_source("mine", corpora.source("obelics", tmp_path))
