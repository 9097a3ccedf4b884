"""How fast corpora are made. Prints one JSON object:

sentencepiece_tokens_per_second  the text tokenizer alone, with as many threads as cores: the ceiling
text_tokens_per_second  `prepare` of such texts: reading, encoding, parts, assembling, checksums; by how much longer all of them
                        take than the first third, so that the start of processes does not count
text_share              one by the other, in the same round; medians of --rounds
pictures_per_second     on one thread, by part: `read` (decoding and scaling), `encode`, `judge` (by which the fit is told); and
                        `all`: `prepare` of pictures on all cores, measured as texts are
start_seconds           `python -m momafuse.prepare` on 300 pictures and 30 texts, from the command to its end

python scripts/bench_prepare.py [--megabytes 60] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from momafuse.config.compose import compose_jobs
from momafuse.config.prepare import PrepareConfig
from momafuse.data import workers
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Raw, open_source
from momafuse.data.workers import cores
from momafuse.errors import UserError
from momafuse.tokens.text import TextTokenizer
from momafuse.vision.codec import ImageCodec

TEXT, PICTURES = "data.sources.texts", "data.sources.pictures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=60.0, help="of text")
    parser.add_argument("--documents", type=int, default=4000, help="characters of a document")
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        texts = write_texts(folder / "texts.jsonl", asked.megabytes, asked.documents)
        pictures = write_pictures(folder / "pictures", 300)[: asked.pictures]
        rounds = [measure_text(folder, texts, n) for n in range(asked.rounds)]
        result = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
        result |= {"pictures_per_second": measure_pictures(folder, pictures, asked.rounds)}
        result |= {"start_seconds": statistics.median(measure_start(folder, n) for n in range(asked.rounds)), "cores": cores()}
    print(json.dumps(result))


def write_texts(path: Path, megabytes: float, characters: int) -> list[str]:
    """Documents of the pack's glosses, over and over, in another order each time."""
    glosses = [str(item.segments[0]) for item in open_source("g", _config().data.sources["starter_glosses"]).items()]
    texts: list[str] = []
    size = step = 0
    while size < megabytes * 1e6:
        step += 1
        lines: list[str] = []
        length = 0
        while length < characters:
            lines.append(glosses[(step * 7919 + len(lines) * (1 + step % 97)) % len(glosses)])
            length += len(lines[-1]) + 1
        texts.append("\n".join(lines))
        size += length
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return texts


def write_pictures(folder: Path, count: int) -> list[bytes]:
    """Pictures of the pack, with captions in metadata.jsonl."""
    folder.mkdir()
    rows, found = [], []
    for n, item in enumerate(open_source("p", _config().data.sources["starter_pictures"]).items()):
        picture, caption = item.segments
        assert isinstance(picture, Raw)
        found.append(picture.read())
        if n < count:
            (folder / f"{n}.webp").write_bytes(found[-1])
            rows.append({"file_name": f"{n}.webp", "text": caption})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return found


def measure_text(folder: Path, texts: list[str], number: int) -> dict[str, float]:
    words = [f"{TEXT}.reader=text_files", f"{TEXT}.path={folder / 'texts.jsonl'}"]
    encoder = TextTokenizer.load(_config().tokenizer["text"])
    batch = texts[: max(1, 8_000_000 // len(texts[0]))]
    encoder.encode(batch[:10])
    begun = time.perf_counter()
    tokens = sum(map(len, encoder._processor.encode(batch, num_threads=cores())))
    ceiling = tokens / (time.perf_counter() - begun)
    reached = _marginal(words, "texts", len(texts), folder / f"text_{number}")["tokens"]
    return {
        "sentencepiece_tokens_per_second": round(ceiling),
        "text_tokens_per_second": round(reached),
        "text_share": round(reached / ceiling, 3),
    }


def measure_pictures(folder: Path, pictures: list[bytes], rounds: int) -> dict[str, float]:
    config = _config()
    codec = ImageCodec.load(config.tokenizer["image"])
    found: dict[str, list[float]] = {"read": [], "encode": [], "judge": [], "all": []}
    for number in range(rounds):
        begun = time.perf_counter()
        items = [codec.read(data) for data in pictures[:512]]
        read = time.perf_counter()
        codes = codec.encode(items)
        encoded = time.perf_counter()
        codec.judge(items, codec.restore(codes))
        judged = time.perf_counter()
        for name, seconds in (("read", read - begun), ("encode", encoded - read), ("judge", judged - encoded)):
            found[name].append(len(items) / seconds)
        words = [f"{PICTURES}.reader=starter_pictures"]
        found["all"].append(_marginal(words, "pictures", len(pictures), folder / f"pictures_{number}")["documents"])
    return {name: round(statistics.median(values)) for name, values in found.items()}


def measure_start(folder: Path, number: int) -> float:
    texts = folder / "few"
    texts.mkdir(exist_ok=True)
    lines = (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()[:30]
    for n, line in enumerate(lines):
        (texts / f"{n}.txt").write_text(json.loads(line)["text"], encoding="utf-8")
    words = [f"data.sources.pictures.path={folder / 'pictures'}", f"{TEXT}.path={texts}", f"data.path={folder / f's{number}'}"]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "momafuse.prepare", "data=captioned_folder", *words]
    subprocess.run(command, check=True, capture_output=True)
    return round(time.perf_counter() - begun, 2)


def _marginal(words: list[str], source: str, documents: int, path: Path) -> dict[str, float]:
    """Tokens and documents a second, of the last two thirds of the source alone."""
    workers.ALONE = -1.0
    alone = ["~data.sources.starter_pictures", "~data.sources.starter_glosses", *(f"+{word}" for word in words)]
    taken = []
    for limit in (documents // 3, documents):
        config = _config(*alone, f"+data.sources.{source}.limit={limit}")
        begun = time.perf_counter()
        corpus = prepare_corpus(config, path.with_name(f"{path.name}_{limit}"))
        seconds = time.perf_counter() - begun
        splits = corpus.manifest["splits"].values()
        taken.append((seconds, sum(s["tokens"] for s in splits), sum(s["documents"] for s in splits)))
    seconds, tokens, made = (b - a for a, b in zip(*taken, strict=True))
    return {"tokens": tokens / seconds, "documents": made / seconds}


def _config(*words: str) -> PrepareConfig:
    (job,) = compose_jobs(words, "prepare", PrepareConfig)
    return job.config


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench_prepare: {error}")
