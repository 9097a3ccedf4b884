"""What stands in a corpus, against plain loops over its sources; what opening one refuses."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from momafuse.config.schema import SourceConfig
from momafuse.data.corpus import KINDS, Corpus, Split, unfinished
from momafuse.data.loader import Loader
from momafuse.data.packing import PackPlan
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Item, Raw, open_source
from momafuse.errors import UserError
from momafuse.tokens.document import turned
from momafuse.tokens.vocabulary import Specials, Vocabulary
from momafuse.vision.codec import decode_picture, vary
from momafuse.vision.preprocess import preprocess
from tests.data import corpora

VARIANTS = 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceConfig]:
    folder = tmp_path_factory.mktemp("sources")
    corpora.write_pictures(folder / "pictures", 60)
    corpora.write_texts(folder / "texts.jsonl", 150)
    return {
        "pictures": corpora.source("captioned_folder", folder / "pictures", VARIANTS),
        "texts": corpora.source("text_files", folder / "texts.jsonl"),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, SourceConfig]) -> Corpus:
    path = tmp_path_factory.mktemp("corpus") / "made"
    return prepare_corpus(corpora.config(sources), path, corpora.encoder())


@pytest.fixture
def copy(made: Corpus, tmp_path: Path) -> Path:
    return shutil.copytree(made.path, tmp_path / "copy")


def plain_document(item: Item, variant: int, vocabulary: Vocabulary) -> list[int]:
    """One token at a time, from the item's own bytes."""
    encoder = corpora.encoder()
    picture, text = [], []
    for segment in item.segments:
        if isinstance(segment, Raw):
            with Image.open(io.BytesIO(segment.read())) as image:
                pixels = preprocess(image, 32)
            varied = vary(pixels, f"{item.key}:0", variant, mirrorable="left" not in str(item.segments[1]))
            picture.append(3)
            for code in encoder.codecs["image"].encode([varied])[0].tolist():
                picture.append(8 + code)
            picture.append(4)
        else:
            for piece in encoder.text.encode([segment])[0].tolist():
                text.append(vocabulary.modality("text").first + piece)
    key = f"{item.key}#{variant}" if variant else item.key
    return [1, *(picture + text if turned(key) else text + picture), 2]


def documents(split: Split) -> list[list[int]]:
    return [split.tokens[split.offsets[d] : split.offsets[d + 1]].tolist() for d in range(split.documents)]


@pytest.mark.parametrize("name", ["train", "validation"])
def test_every_document_agrees_with_a_plain_loop(made: Corpus, sources: dict[str, SourceConfig], name: str) -> None:
    split: Split = getattr(made, name)
    expected = []
    for source, config in sources.items():
        items = [item for item in open_source(source, config).items() if item.split == name]
        for variant in range(VARIANTS if (source, name) == ("pictures", "train") else 1):
            for item in items:
                expected.append(plain_document(item, variant, made.vocabulary))
    assert documents(split) == expected
    assert split.offsets[-1] == len(split.tokens) == sum(len(d) for d in expected)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_pictures_kinds_counts_and_sources_describe_the_tokens(made: Corpus, name: str) -> None:
    split: Split = getattr(made, name)
    modality = made.vocabulary.modality_of_ids()
    counted: Counter[int] = Counter()
    per_source = [Counter[str]() for _ in split.sources]
    for d, ids in enumerate(documents(split)):
        counted.update(ids)
        spans = split.items[split.item_index[d] : split.item_index[d + 1]].tolist()
        found = []
        for place, i in enumerate(ids):
            if i == 3:
                found.append([int(split.offsets[d]) + place + 1, 16])
        assert spans == found
        for first, length in spans:
            assert (modality[split.tokens[first : first + length]] == 1).all()
            assert split.tokens[first - 1] == 3
            assert split.tokens[first + length] == 4
        assert KINDS[split.kinds[d]] == ("pair" if found else "text")
        (number,) = (n for n, s in enumerate(split.sources) if s.first <= d < s.first + s.documents)
        image = sum(int(modality[i]) for i in ids)
        per_source[number].update(documents=1, image=image, text=len(ids) - image, pictures=len(found))
    for info, seen in zip(split.sources, per_source, strict=True):
        assert (info.documents, info.tokens[1], info.tokens[0], info.items[1]) == tuple(
            seen[k] for k in ("documents", "image", "text", "pictures")
        )
    assert split.counts.tolist() == [counted[i] for i in range(made.vocabulary.size)]
    assert [s.name for s in split.sources] == ["pictures", "texts"]


def test_types_and_maps(made: Corpus) -> None:
    for split in (made.train, made.validation):
        assert split.tokens.dtype == np.uint16
        assert isinstance(split.tokens, np.memmap)
        assert not split.tokens.flags.writeable
        for name, dtype in {"offsets": "i8", "items": "i8", "item_index": "i8", "kinds": "u1", "counts": "i8"}.items():
            assert getattr(split, name).dtype == dtype
        assert split.given is None
    assert sorted(p.name for p in (made.path / "train").iterdir()) == sorted(FILES)  # no file more where nothing is given
    assert made.vocabulary == Vocabulary.build(4088, image=(256, 16))
    assert made.vocabulary.specials == Specials(0, 1, 2)


def test_a_corpus_of_text_alone(tmp_path: Path) -> None:
    texts = corpora.write_texts(tmp_path / "t.jsonl", 4)
    sources = {"t": corpora.source("text_files", tmp_path / "t.jsonl")}
    corpus = prepare_corpus(corpora.config(sources), tmp_path / "c", corpora.encoder())
    assert corpus.train.items.shape == (0, 2)
    assert corpus.train.documents + corpus.validation.documents == len(texts)
    assert set(corpus.train.kinds.tolist()) == {KINDS.index("text")}


def test_fingerprints_change_with_the_content(made: Corpus, sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    again = prepare_corpus(corpora.config(sources), tmp_path / "again", corpora.encoder())
    assert again.train.fingerprint == made.train.fingerprint
    fewer = prepare_corpus(corpora.config({"texts": sources["texts"]}), tmp_path / "fewer", corpora.encoder())
    assert len({fewer.train.fingerprint, made.train.fingerprint, made.validation.fingerprint}) == 3


# Variants


def test_variants_are_flips_and_shifts_on_white() -> None:
    picture = torch.randint(0, 255, (3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert vary(picture, "k", 0) is picture
    for variant in range(1, 8):
        varied = vary(picture, "k", variant)
        base = picture.flip(2) if variant % 2 else picture
        fits = []
        for dy in range(-3, 4):
            for dx in range(-3, 4):
                shifted = torch.full_like(base, 255)
                for y in range(16):
                    for x in range(16):
                        if 0 <= y - dy < 16 and 0 <= x - dx < 16:
                            shifted[:, y, x] = base[:, y - dy, x - dx]
                if torch.equal(shifted, varied):
                    fits.append((dy, dx))
        assert len(fits) == 1
        assert fits != [(0, 0)]
        assert torch.equal(vary(picture, "k", variant), varied)


def test_shifts_are_spread_over_all_places() -> None:
    picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
    picture[:, 8, 8] = 200
    places = {tuple((vary(picture, str(n), 2)[0] == 200).nonzero()[0].tolist()) for n in range(800)}
    assert len(places) == 48
    assert (8, 8) not in places


def test_what_says_left_or_right_is_not_mirrored() -> None:
    picture = torch.arange(3 * 256).view(3, 16, 16).to(torch.uint8)
    varied, mirrored = vary(picture, "k", 1, mirrorable=False), vary(picture, "k", 1)
    assert not torch.equal(varied, mirrored)
    assert torch.equal(varied, vary(picture.flip(2), "k", 1))


def test_an_undecodable_picture_says_why() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "PNG")
    for data, reason in {
        b"": "no picture format",
        b"nonsense": "no picture format",
        buffer.getvalue()[:-30]: ".",
    }.items():
        with pytest.raises(ValueError, match=reason):
            decode_picture(data, 32)


def test_a_huge_picture_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="144000000 pixels"):
        decode_picture(buffer.getvalue(), 32)


# What opening refuses


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        Corpus.open(path, **options)
    text = str(caught.value)
    assert text.startswith("data.path=" if not options else "tokenizer.")
    assert "\n" not in text
    return text


def test_a_missing_folder_names_the_command(tmp_path: Path) -> None:
    text = refusal(tmp_path / "none")
    assert "no such corpus" in text
    assert f"python -m momafuse.prepare data=NAME data.path={tmp_path / 'none'}" in text


def test_an_unfinished_corpus_is_said_to_be_one(copy: Path) -> None:
    copy.rename(unfinished(copy))
    assert "not finished" in refusal(copy)


def test_a_folder_without_a_manifest(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    assert "manifest.json is missing" in refusal(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"versio": 1}', '{"version": 1}'])
def test_a_broken_manifest(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    assert "manifest.json is corrupted" in refusal(copy)


def test_another_version(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    assert "corpus version 99" in refusal(copy)


FILES = ["tokens.bin", "offsets.npy", "images.npy", "image_index.npy", "kinds.npy", "counts.npy"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_truncated_or_missing_file_is_named(copy: Path, split: str, name: str) -> None:
    file = copy / split / name
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{split}/{name} is truncated" in refusal(copy)
    file.unlink()
    assert f"{split}/{name} is missing" in refusal(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(copy: Path, name: str) -> None:
    file = copy / "train" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert f"train/{name} is corrupted" in refusal(copy)


def test_a_large_corpus_is_hashed_only_when_asked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("momafuse.data.corpus.ALWAYS_HASHED", 10)
    file = copy / "train" / "tokens.bin"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    Corpus.open(copy)
    with pytest.raises(UserError, match="corrupted"):
        Corpus.open(copy, verify=True)


@pytest.mark.parametrize("flip", ["far", "near"])
def test_a_flipped_byte_of_a_large_corpus_is_named_where_it_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch, flip: str
) -> None:
    """One that makes an id beyond the vocabulary of it, and one that makes a text of a picture's code."""
    monkeypatch.setattr("momafuse.data.corpus.ALWAYS_HASHED", 10)
    whole = Corpus.open(copy).train
    document = int(np.flatnonzero(whole.kinds == KINDS.index("pair"))[3])
    at = int(whole.offsets[document] + whole.items_of(document)[0][0, 0]) + 2
    file = copy / "train" / "tokens.bin"
    data = bytearray(file.read_bytes())
    data[2 * at + 1] ^= 0x80 if flip == "far" else 0x04
    file.write_bytes(data)
    split = Corpus.open(copy).train
    budget = (96, 16)
    plan = PackPlan(split, budget, {"pictures": 1.0, "texts": 1.0}, 0, 16)
    loader = Loader(split, split.vocabulary, plan, budget)
    (number,) = (n for n in range(plan.sequences_per_epoch) if document in {p.document for p in plan.pieces(n)})
    problem = (
        f"not below the vocabulary's {split.vocabulary.size}" if flip == "far" else "of text, where its document has image"
    )
    with pytest.raises(UserError) as error:
        loader.batch(range(max(0, number - 2), number + 3))
    assert str(error.value) == (
        f"data.path={copy}: train/tokens.bin holds id {split.tokens[at]} at token {at} (document {document}, of source "
        f"pictures), {problem}; the file is damaged: restore it, or delete the corpus and run python -m momafuse.prepare again"
    )


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_tokenizer_that_is_not_the_corpuss(copy: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    mine = {k: (f"my_{k}", facts["fingerprint"]) for k, facts in manifest["tokenizers"].items()}
    chosen = {"text": "my_text", "image": "my_image"}
    monkeypatch.setattr("momafuse.data.corpus.tokenizer_fingerprints", lambda config: mine)
    Corpus.open(copy, chosen)
    mine[kind] = (f"my_{kind}", "f" * 64)
    text = refusal(copy, tokenizer=chosen)
    assert text.startswith(f"tokenizer.{kind}=my_{kind}: ")
    assert f"set tokenizer.{kind}={manifest['tokenizers'][kind]['name']}" in text
