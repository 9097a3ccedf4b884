"""The corpora of speech, from packages that are made here: as many stamps as are needed to fill both kinds, a few prompts."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from momafuse.data.sources import open_source
from tests.data.corpora import source
from tests.scripts.debian import debian_package

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fetch_corpus.py"


def fetch(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("package")
    stamps = root / "tree" / "usr/share/tuxpaint/stamps" / "animals"
    stamps.mkdir(parents=True)
    for n in range(40):
        (stamps / f"a{n}.png").write_bytes(b"picture")
        (stamps / f"a{n}.txt").write_text(f"An animal {n}.\nfr.utf8=Un animal {n}.\nde.utf8=\n", encoding="utf-8")
        (stamps / f"a{n}_desc.ogg").write_bytes(b"sound")
        (stamps / f"a{n}_desc_fr.ogg").write_bytes(b"son")
        (stamps / f"a{n}_desc_de.ogg").write_bytes(b"without a sentence")
        (stamps / f"a{n}_desc_es.ogg").write_bytes(b"")
    return debian_package(root / "tree", root / "stamps.deb")


def test_every_sound_with_a_sentence_is_there_once(package: Path, tmp_path: Path) -> None:
    done = fetch("spoken_pictures", tmp_path / "out", "--package", package)
    assert done.returncode == 0, done.stderr
    rows = {}
    for kind in ("triples", "spoken"):
        with (tmp_path / "out" / kind / "metadata.csv").open(newline="", encoding="utf-8") as file:
            rows[kind] = list(csv.DictReader(file))
    assert {(r["file_name"], r["text"]) for found in rows.values() for r in found} == {
        (f"animals/a{n}_{language}.ogg", text)
        for n in range(40)
        for language, text in (("en", f"An animal {n}."), ("fr", f"Un animal {n}."))
    }
    assert all(r["image"] for r in rows["triples"])
    assert not any(r["image"] for r in rows["spoken"])
    for found in rows.values():
        assert len(found) > 20
        splits = {r["file_name"].split("_")[0]: set() for r in found}
        for r in found:
            splits[r["file_name"].split("_")[0]].add(r["split"])
        assert all(len(s) == 1 for s in splits.values())  # a picture is held out with all that is said of it
    texts = {json.loads(line)["text"] for line in (tmp_path / "out" / "texts.jsonl").read_text().splitlines()}
    held_out = {r["text"] for found in rows.values() for r in found if r["split"] == "validation"}
    assert len(texts) + len(held_out) == 80
    assert not texts & held_out
    items = list(open_source("triples", source("spoken_folder", tmp_path / "out" / "triples")).items())
    assert {i.split for i in items} <= {"train", "validation"}
    assert {i.key: i.split for i in items} == {r["file_name"]: r["split"] for r in rows["triples"]}


TEXTS = """; Core Asterisk Sounds in English

activated: Activated.
beep: [this is a simple beep tone]
digits/1: 1
letters/at: at [@]
silence/1: (1 second of silence)
vm-intro: Please leave your message: after the tone.  When done hang up. (simple tone sound plays)
not-there: It has no sound.
"""


def test_prompts_are_what_is_said_in_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    sounds, texts = tree / "usr/share/asterisk/sounds/en_US_f_Allison", tree / "usr/share/doc/asterisk-core-sounds-en"
    texts.mkdir(parents=True)
    (texts / "core-sounds-en.txt.gz").write_bytes(gzip.compress(TEXTS.encode()))
    for n, name in enumerate(("activated", "beep", "digits/1", "letters/at", "silence/1", "vm-intro")):
        (sounds / name).parent.mkdir(parents=True, exist_ok=True)
        (sounds / f"{name}.g722").write_bytes(np.random.default_rng(n).bytes(4_000 + 1_000 * n))
    debian_package(tree, tmp_path / "prompts.deb")
    done = fetch("spoken_prompts", tmp_path / "out", "--package", tmp_path / "prompts.deb")
    assert done.returncode == 0, done.stderr
    items = {i.key: i for i in open_source("prompts", source("spoken_folder", tmp_path / "out")).items()}
    assert {key: [s for s in i.segments if isinstance(s, str)] for key, i in items.items()} == {
        "activated.flac": ["Activated."],
        "digits/1.flac": ["1"],
        "letters/at.flac": ["at"],
        "vm-intro.flac": ["Please leave your message: after the tone. When done hang up."],
    }
    heard, rate = soundfile.read(tmp_path / "out" / "vm-intro.flac")
    assert (heard.shape, rate) == ((18_000,), 16_000), "two samples a byte"
    assert np.abs(heard).max() > 0.01
    done = fetch("spoken_pictures", tmp_path / "others", "--package", tmp_path / "prompts.deb")
    assert "no usr/share/tuxpaint/stamps in what was given; give the files of tuxpaint-stamps-default" in done.stderr
    assert not (tmp_path / "others").exists()


def test_mistakes_are_one_line(package: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "no.deb").write_text("no package")
    for words, message in (
        (("spoken_pictures", tmp_path / "there"), "exists; delete it or name another folder"),
        (("spoken_pictures", tmp_path / "out", "--package", tmp_path / "no.deb"), "cannot be unpacked"),
    ):
        done = fetch(*words)
        assert done.returncode != 0
        assert message in done.stderr
        assert not (tmp_path / "out").exists()
