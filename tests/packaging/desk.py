"""What the reader of a page has before it begins: folders of pictures, texts and sounds, weights, plugins, runs of micro size.

All are made once and lie beside one another; each page gets links to them in a folder of its own.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image

from tests.data.corpora import write_conversations, write_image_tokenizer, write_pictures
from tests.data.published import write_karpathy
from tests.packaging.pages import PAGES, REPOSITORY, snippets
from tests.speech.sounds import encoded, voice

# Runs that pages suppose: the words of `train` that make one, or the name of one that it is a copy of.
RUNS: dict[str, list[str] | str] = {
    "dense": ["+experiment=dense"],
    "dense-0": "dense",
    "dense-1": ["+experiment=dense", "run.seed=1"],
    "mot": ["+experiment=mot"],
    "mot-0": "mot",
    "mot-1": ["+experiment=mot", "run.seed=1"],
    "demo": ["+experiment=moma_4t4i"],
    "demo-aux_routers": ["+experiment=aux_routers", "model_from=runs/demo"],
    "moma_4t4i": ["+experiment=moma_4t4i"],
    "moma_4t4i-aux_routers": ["+experiment=aux_routers", "model_from=runs/moma_4t4i"],
    "iso_flops/dense-0": "dense",
    "iso_flops/mot-0": "mot",
}
COUNT, HELD_OUT = 60, 3  # documents of a folder; every third is held out: expert choice is evaluated on pools


def split(n: int) -> str:
    return "train" if n % HELD_OUT else "validation"


def captioned(folder: Path, count: int = COUNT) -> None:
    captions = write_pictures(folder, count)
    with (folder / "metadata.csv").open("w", newline="") as file:
        rows = [(name, text, split(n)) for n, (name, text) in enumerate(captions.items())]
        csv.writer(file).writerows([("file_name", "text", "split"), *rows])


def wordless(folder: Path) -> None:
    """Pictures without captions, some of them held out by their folder."""
    write_pictures(folder, 8)
    (folder / "metadata.csv").unlink()
    (folder / "deep").rename(folder / "validation")


def texts(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [{"text": f"document {n}: " + "a bird sees the tall tree " * (n % 9 + 1)} for n in range(400)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def spoken(folder: Path, pictures: bool = False) -> None:
    """Sounds with what is said, and with pictures of it."""
    folder.mkdir(parents=True)
    rows = [("file_name", "text", "image", "split")]
    for n in range(COUNT):
        (folder / f"{n}.wav").write_bytes(encoded(voice(0.5 + n % 4 / 5, 16_000, n), 16_000))
        if pictures:
            Image.new("RGB", (40, 40), (2 * n, 90, 30)).save(folder / f"{n}.png")
        rows.append((f"{n}.wav", f"sound number {n}", f"{n}.png" if pictures else "", split(n)))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def coco(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (70, 50), (200, 90, 30)).save(folder / "any.jpg")
    write_karpathy(folder, [(folder / "any.jpg").read_bytes()] * 60, coco=True)


def tunes(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(COUNT):
        notes = rng.integers(40, 80, rng.integers(5, 40))
        (folder / f"{n:03d}.notes").write_text("\n".join([f"tune number {n}", *map(str, notes)]))


def collection(folder: Path) -> None:
    """In the folders of scripts/fetch_corpus.py collection."""
    for name in ("clip_art", "fluent", "openmoji", "twemoji", "stamps"):
        captioned(folder / "pairs" / name, 18)
    for name in ("dictionaries", "manuals", "literature"):
        texts(folder / "texts" / name)
    for name in ("gimp", "sklearn", "opencv"):
        (folder / "pages" / name).mkdir(parents=True)
        Image.new("RGB", (80, 70), (9, 200, 90)).save(folder / "pages" / name / "shown.png")
        for n in range(4):
            body = f"<p>What the window {n} of {name} looks like:</p><img src='shown.png' alt='window {n}'><p>It closes.</p>"
            (folder / "pages" / name / f"{n}.html").write_text(f"<html><body>{body}</body></html>")
    (folder / "languages").mkdir()
    stamp = (folder / "pairs" / "stamps" / "001.png").read_bytes()
    rows = {"images": [[stamp, None]] * 8, "texts": [[None, f"un timbre {n}"] for n in range(8)]}
    Dataset.from_dict(rows).to_parquet(str(folder / "languages" / "captions.parquet"))


def fetched_pictures(folder: Path) -> None:
    for name in ("openmoji", "twemoji", "stamps", "manual", "plots"):
        wordless(folder / name)


def spoken_pictures(folder: Path) -> None:
    spoken(folder / "triples", pictures=True)
    spoken(folder / "spoken")
    texts(folder / "texts")
    shutil.move(folder / "texts" / "texts.jsonl", folder / "texts.jsonl")


def chameleon(folder: Path) -> None:
    from tests.exchange import foreign  # only here: it imports transformers

    foreign.chameleon(folder, swin=False, kv_heads=4)


# What pages call it -> who makes it.
FOLDERS: dict[str, Callable[[Path], object]] = {
    "PICTURES": captioned,
    "TEXTS": texts,
    "MORE": texts,
    "SOUNDS": spoken,
    "TUNES": tunes,
    "FOLDER": coco,
    "CHATS": lambda folder: write_conversations(folder, COUNT),
    "MORE_CHATS": lambda folder: write_conversations(folder, COUNT, pictures=False),
    "chameleon-7b": chameleon,
    "collection": collection,
    "pictures": fetched_pictures,
    "photographs": wordless,
    "spoken_pictures": spoken_pictures,
    "spoken_prompts": spoken,
}

ALWAYS = ("PICTURES", "TEXTS", "MORE")  # what placeholders stand for, too
NEEDED = {  # where not by name
    "pictures": r"data=pictures|starter_vq_v2",
    "photographs": r"photographs|starter_vq_v2",
    "spoken_pictures": r"\+experiment=(mot_speech|dense_speech|moma_4t4i2s)|tokenizer=speech_vq",
    "spoken_prompts": r"spoken_prompts|tokenizer=speech_vq",
}


@dataclass
class Desk:
    root: Path
    train: Callable[[list[str]], None]
    there: set[str] = field(default_factory=set)

    def give(self, folder: Path, page: Path) -> None:
        """What the page speaks of, into the reader's folder; nothing else is made."""
        text = page.read_text(encoding="utf-8")
        (folder / "corpora").symlink_to(self.root / "corpora")  # of the same words they are the same
        for name, write in FOLDERS.items():
            if name in ALWAYS or re.search(NEEDED.get(name, rf"\b{name}\b"), text):
                if name not in self.there:
                    write(self.root / name)
                    self.there.add(name)
                (folder / name).symlink_to(self.root / name)
        (folder / "home").mkdir()
        if "~/pictures" in text:
            (folder / "home" / "pictures").symlink_to(self.root / "PICTURES")
        for picture in ("cat.png", "apple.png"):
            Image.new("RGB", (30, 40), (9, 200, 90)).save(folder / picture)
        (folder / "FILE").write_text("a red apple:\na blue bird:\n")
        (folder / "tokenizers").mkdir()
        write_image_tokenizer(folder / "tokenizers" / "mine.safetensors")
        self.give_plugins(folder, page)
        self.give_configs(folder, text)
        self.give_runs(folder, text)

    def give_plugins(self, folder: Path, page: Path) -> None:
        """The modules that the page shows; what docs/modalities.md shows in pieces, from the file that it names."""
        text = page.read_text(encoding="utf-8")
        for code in (snippet.code for snippet in snippets(page) if snippet.registers):
            named = re.match(r"# (\w+)\.py\n", code) or re.search(r"`(\w+)\.py`, anywhere on `PYTHONPATH`", text)
            assert named, f"the page does not say in which file this is:\n{code}"
            (folder / f"{named[1]}.py").write_text(code)
        if "my_package.melodies" in text:
            (folder / "my_package").mkdir()
            shutil.copy(REPOSITORY / "tests" / "modalities" / "melodies.py", folder / "my_package")

    def give_configs(self, folder: Path, text: str) -> None:
        """The files of a `--config-dir`, of any page: they refer to one another."""
        shown = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
        for name, content in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", shown, flags=re.MULTILINE | re.DOTALL):
            if f"={Path(name).stem}" in text:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(content.replace("/shared/corpora/", "corpora/"))

    def give_runs(self, folder: Path, text: str) -> None:
        """Copies, since programs write into them."""
        (folder / "runs").mkdir()
        asked = set(re.findall(r"\bruns/([\w-]+)", text))
        for name in [name for name in RUNS if name.partition("/")[0] in asked]:
            self.make_run(name)
            shutil.copytree(self.root / "runs" / name, folder / "runs" / name)

    def make_run(self, name: str) -> None:
        if name in self.there:
            return
        self.there.add(name)
        words, runs = RUNS[name], self.root / "runs"
        if isinstance(words, str):
            self.make_run(words)
            shutil.copytree(runs / words, runs / name)
            return
        for word in words:
            if word.startswith("model_from=runs/"):
                self.make_run(word.removeprefix("model_from=runs/"))
        self.train([*words, f"run.name={name}"])
