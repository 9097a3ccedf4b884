"""Makes a corpus of the configured sources: read, tokenise, write aside, rename.

A source is read in chunks; each becomes a part file, and a killed run goes on after the last part. The result does
not depend on where it was killed. A document with a picture that cannot be decoded is left out and listed; too many
of them stop the run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from momafuse import __version__
from momafuse.config.schema import Config, SourceConfig
from momafuse.data import corpus as store
from momafuse.data.codecs import tokenizer_fingerprints
from momafuse.data.corpus import Corpus
from momafuse.data.encoding import Encoder
from momafuse.data.layout import layout_of
from momafuse.data.progress import Progress
from momafuse.data.sources import Item, Source, open_source
from momafuse.data.writer import Part, assemble, part_path, part_paths, write_json, write_lines
from momafuse.errors import UserError
from momafuse.preemption import asked, heeding, leave_if

CHUNK_DOCUMENTS = 4096
CHUNK_ITEMS = 1024  # variants counted; a chunk ends earlier where it has many pictures or the like
CHUNK_CHARACTERS = 2**25  # or long texts
PARTS = 2  # the form of the files that an unfinished corpus is made of
MAX_REJECT_SHARE = 0.01  # of a source's documents
ROOT = "corpora"
FIRST = "leaving after the part at work; Ctrl-C again leaves at once, without it"


def corpus_path(config: Config) -> Path:
    """`data.path`, or corpora/NAME-HASH by what the corpus depends on. Raises UserError for a missing tokenizer."""
    if config.data.path is not None:
        return Path(config.data.path).expanduser()
    made_of = {
        "version": 1,
        "sources": _recipe(config),
        "tokenizers": {kind: fingerprint for kind, (_, fingerprint) in tokenizer_fingerprints(config.tokenizer).items()},
    }
    return Path(ROOT) / f"{config.data.name}-{_hash(made_of)[:8]}"


def open_or_prepare(config: Config) -> Corpus:
    """The corpus that `config` chooses; the automatic one is made on first use. Raises UserError (see Corpus.open)."""
    path = corpus_path(config)
    if config.data.path is None and not path.exists():
        return prepare_corpus(config, path)
    corpus = Corpus.open(path, config.tokenizer)
    held, asked = list(corpus.manifest["sources"]), list(config.data.sources)
    if set(held) != set(asked):
        raise UserError(
            f"data.path={path}: the corpus holds {', '.join(held)}, but data.sources names {', '.join(asked)}; "
            "choose the data= it was made with"
        )
    return corpus


def prepare_corpus(config: Config, path: Path, encoder: Encoder | None = None) -> Corpus:
    """Makes the corpus at `path`, or opens it where it is complete.

    Raises UserError; what is finished by then stays for the next run.
    """
    if path.exists():
        corpus = Corpus.open(path, config.tokenizer if encoder is None else None)
        _check_sources(config, corpus)
        return corpus
    encoder = encoder or Encoder.load(config.tokenizer)
    sources = {name: open_source(name, source) for name, source in config.data.sources.items()}
    aside = store.unfinished(path)
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.path={path}: cannot make {aside.parent} ({error.strerror}); set it to another place") from error
    with _alone(path):
        if path.exists():  # another process has just made it
            return Corpus.open(path)
        _begin(aside, _plan(config, sources, encoder))
        rejects: list[dict[str, str]] = []
        with Progress() as progress, heeding(FIRST):
            for number, (name, source) in enumerate(sources.items()):
                rejects += _prepare_source(aside, number, name, source, config.data.sources[name], encoder, progress)
        _finish(aside, config, sources, encoder, rejects)
        aside.rename(path)
    return Corpus.open(path)


def _check_sources(config: Config, corpus: Corpus) -> None:
    """Raises UserError where the finished corpus is not what this config would make now."""
    made_of = corpus.manifest["sources"]
    wanted = _recipe(config)
    held = {name: {key: facts[key] for key in ("reader", "path", "variants")} for name, facts in made_of.items()}
    changed = sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))
    if not changed:
        now = {name: open_source(name, source).fingerprint for name, source in config.data.sources.items()}
        changed = [name for name in wanted if now[name] != made_of[name]["fingerprint"]]
    if changed:
        raise UserError(
            f"data.path={corpus.path}: this corpus is complete, but was made of other data ({', '.join(changed)} changed); "
            "delete it to make it anew, or set another data.path"
        )


def _prepare_source(
    aside: Path, number: int, name: str, source: Source, config: SourceConfig, encoder: Encoder, progress: Progress
) -> list[dict[str, str]]:
    """Writes the parts that are missing; returns the source's rejects."""
    parts = [Part.facts(path) for path in part_paths(aside, number)]
    rejects = [reject for part in parts for reject in part.rejects]
    done = sum(part.items for part in parts)
    progress.source(name, source.documents, done)
    for chunk in _chunks(_readable(name, source.items(done)), config.variants):
        part = encoder.encode(chunk, config.variants)
        part.save(part_path(aside, number, len(parts)))
        parts.append(part)
        rejects += part.rejects
        done += part.items
        progress.advance(part.items)
        leave_if(asked(), "parts that are done are kept")
    if done == 0:
        raise UserError(f"data.sources.{name}.path={config.path}: the source holds no documents; set it to data or take it out")
    listed = [{"source": name, "key": key, "reason": reason} for key, reason in rejects]
    if len(rejects) > MAX_REJECT_SHARE * done:
        for path in part_paths(aside, number):  # so that repaired files are read again
            path.unlink()
        write_lines(aside / "rejects.jsonl", listed)
        raise UserError(
            f"data.sources.{name}: {len(rejects)} of {done} documents cannot be used, more than {MAX_REJECT_SHARE:.0%}; "
            f"the first is {rejects[0][0]} ({rejects[0][1]}); repair or remove those listed in {aside / 'rejects.jsonl'} "
            "and run the same again"
        )
    return listed


def _chunks(items: Iterable[Item], variants: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    codings, characters = 0, 0
    for item in items:
        chunk.append(item)
        texts = [segment for segment in item.segments if isinstance(segment, str)]
        characters += sum(map(len, texts))
        codings += variants * (len(item.segments) - len(texts))
        if len(chunk) == CHUNK_DOCUMENTS or codings >= CHUNK_ITEMS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, codings, characters = [], 0, 0
    if chunk:
        yield chunk


def _readable(name: str, items: Iterator[Item]) -> Iterator[Item]:
    """The items; what goes wrong while reading them becomes a UserError."""
    from datasets.exceptions import DatasetsError

    try:
        yield from items
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(f"data.sources.{name}: cannot be read further: {' '.join(str(error).split())}") from error


def _recipe(config: Config) -> dict[str, Any]:
    """What of each source shapes the corpus (its weight does not)."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().resolve())

    sources = config.data.sources
    return {n: {"reader": s.reader, "path": absolute(s.path), "variants": s.variants} for n, s in sources.items()}


def _tokenizers(config: Config, encoder: Encoder) -> dict[str, dict[str, str]]:
    found = encoder.fingerprints
    return {modality: {"name": name, "fingerprint": found[modality]} for modality, name in config.tokenizer.items()}


def _plan(config: Config, sources: dict[str, Source], encoder: Encoder) -> dict[str, Any]:
    """What finished parts depend on: with another plan they are worthless."""
    return {
        "parts": PARTS,
        "sources": _recipe(config),
        "content": {name: source.fingerprint for name, source in sources.items()},
        "tokenizers": _tokenizers(config, encoder),
        "chunk": [CHUNK_DOCUMENTS, CHUNK_ITEMS, CHUNK_CHARACTERS],
    }


def _begin(aside: Path, plan: dict[str, Any]) -> None:
    """Keeps the unfinished folder where it was made by the same plan, else starts it anew."""
    file = aside / "plan.json"
    if aside.exists() and not (file.is_file() and json.loads(file.read_text(encoding="utf-8")) == plan):
        shutil.rmtree(aside)
    if not aside.exists():
        aside.mkdir()
        write_json(file, plan)


def _finish(aside: Path, config: Config, sources: dict[str, Source], encoder: Encoder, rejects: list[dict[str, str]]) -> None:
    """Assembles the splits and writes the manifest last."""
    splits = assemble(aside, list(sources), encoder.vocabulary)
    evaluation = all(source.held_out_only for source in sources.values())
    for split, facts in splits.items():
        if not facts["documents"] and not (split == "train" and evaluation):
            remedy = "give it more documents" if split == "validation" else "all documents are held out or rejected"
            raise UserError(f"data.sources: no {split} documents; {remedy}")
    write_lines(aside / "rejects.jsonl", rejects)
    described = {name: facts | {"fingerprint": sources[name].fingerprint} for name, facts in _recipe(config).items()}
    manifest = {
        "version": layout_of(encoder.vocabulary),
        "momafuse": __version__,
        "name": config.data.name,
        "vocabulary": encoder.vocabulary.to_dict(),
        "tokenizers": _tokenizers(config, encoder),
        "encoder_device": encoder.device,
        "sources": described,
        "rejects": len(rejects),
        "splits": splits,
    }
    for number in range(len(sources)):
        for part in part_paths(aside, number):
            part.unlink()
    (aside / "plan.json").unlink()
    write_json(aside / store.MANIFEST, manifest)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock beside `path`, so that two runs do not write one corpus; the system frees it with the process."""
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    lock.unlink(missing_ok=True)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
