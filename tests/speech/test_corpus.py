"""A folder of sounds with transcripts, from its files to sequences."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from momafuse.data.encoding import Encoder
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import open_source
from momafuse.errors import UserError
from momafuse.speech.codec2 import Codec2
from momafuse.tokens.text import TextTokenizer
from tests.data import corpora
from tests.speech.sounds import encoded, voice

BAD = {
    "silent.wav": encoded(np.zeros(8_000, np.float32), 8_000),
    "nothing.wav": encoded(np.zeros(0, np.float32), 8_000),
    "noise.ogg": b"OggS and no more",
}


def write_sounds(folder: Path, count: int, more: dict[str, bytes], form: str = "csv") -> None:
    rows = []
    folder.mkdir(parents=True)
    for n in range(count):
        kind = ("WAV", "FLAC", "OGG", "MP3")[n % 4]
        rows.append({"file_name": f"{n:03d}.{kind.lower()}", "text": f"sound number {n}"})
        (folder / rows[-1]["file_name"]).write_bytes(encoded(voice(0.2 + n % 5 / 10, 16_000, n), 16_000, kind))
    for name, data in more.items():
        (folder / name).write_bytes(data)
        rows.append({"file_name": name, "text": "cannot be used"})
    rows += [{"file_name": "gone.wav", "text": "not there"}] if more else []
    if form == "csv":
        with (folder / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_corpus_holds_what_can_be_used_and_lists_the_rest(tmp_path: Path, form: str) -> None:
    write_sounds(tmp_path / "sounds", 60, BAD, form)
    corpora.write_texts(tmp_path / "texts.jsonl", 50)
    sources = {
        "spoken": corpora.source("spoken_folder", tmp_path / "sounds", variants=2),
        "texts": corpora.source("text_files", tmp_path / "texts.jsonl"),
    }
    config = corpora.config(sources, rejects=0.1)
    config.__dict__["tokenizer"] = {"text": corpora.TEXT, "speech": "codec2_700c"}
    codec = Codec2()
    encoder = Encoder(TextTokenizer.load(corpora.TEXT), {"speech": codec})
    corpus = prepare_corpus(config, tmp_path / "corpus", encoder)
    rejects = [json.loads(line) for line in (tmp_path / "corpus" / "rejects.jsonl").read_text().splitlines()]
    reasons = {reject["key"]: reject["reason"] for reject in rejects}
    assert sorted(reasons) == sorted([*BAD, "gone.wav"])
    assert reasons["silent.wav"] == "silence"
    assert reasons["nothing.wav"] == "no samples"
    assert "No such file" in reasons["gone.wav"]
    speech, seen = corpus.vocabulary.modality("speech"), 0
    wanted = {tuple(codec.encode([codec.read((tmp_path / "sounds" / f"{n:03d}.{k}").read_bytes())])[0].tolist())
              for n in range(60) for k in [("wav", "flac", "ogg", "mp3")[n % 4]]}  # fmt: skip
    for split in (corpus.train, corpus.validation):
        for d in range(split.documents):
            ids = split.tokens[split.offsets[d] : split.offsets[d + 1]].astype(int)
            rows, _ = split.items_of(d)
            for first, count in rows:
                assert (ids[first - 1], ids[first + count]) == speech.frame
                assert tuple((ids[first : first + count] - speech.first).tolist()) in wanted
                seen += 1
    held_out = corpus.validation.sources[0].items[1]
    assert seen == held_out + 2 * (60 - held_out)  # two variants of those to train on


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no metadata\.csv or metadata\.jsonl or metadata\.parquet; write one with the columns file_name,text"),
        ("text\nhello\n", r"metadata\.csv: row 1 has no file_name"),
        ("file_name,text\na.wav,x\na.wav,y\n", r"metadata\.csv names a file twice"),
        ("file_name,split\na.wav,held\n", r"row 1: split=held; write train or validation"),
    ],
)
def test_a_folder_that_is_not_of_the_form(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        open_source("spoken", corpora.source("spoken_folder", tmp_path))


def test_documents_of_three_segments_come_in_every_order(tmp_path: Path) -> None:
    rows = [f"{n}.wav,text {n},{n}.png" for n in range(200)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text,image", *rows]))
    items = list(open_source("spoken", corpora.source("spoken_folder", tmp_path)).items())
    orders = {tuple("text" if isinstance(s, str) else s.modality for s in item.segments) for item in items}
    assert len(orders) == 6
