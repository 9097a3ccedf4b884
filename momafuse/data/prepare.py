"""The corpus that a config asks for: where it lies, whether it is what the config would make, and its making on first use.

How it is made: making.py.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from momafuse.config.prepare import ALONE, Preparation
from momafuse.config.schema import Config, SourceConfig
from momafuse.data.codecs import tokenizer_fingerprints
from momafuse.data.corpus import MANIFEST, Corpus
from momafuse.data.encoding import Encoder
from momafuse.data.making import FOUND, Making
from momafuse.data.sources import open_source
from momafuse.errors import UserError

ROOT = "corpora"
PLAIN = SourceConfig(reader="")


def corpus_path(config: Config) -> Path:
    """`data.path`, or corpora/NAME-HASH by what the corpus depends on; that, too, where `data.path` is a source's own folder.
    Raises UserError for a missing tokenizer."""
    if config.data.path is not None and not _is_source(config):
        return Path(config.data.path).expanduser()
    made_of = {
        "version": 1,
        "sources": recipe(config),
        "tokenizers": {kind: fingerprint for kind, (_, fingerprint) in tokenizer_fingerprints(config.tokenizer).items()},
    }
    if config.data.duplicates != "keep":
        made_of["duplicates"] = config.data.duplicates
    return Path(ROOT) / f"{config.data.name}-{_hash(made_of)[:8]}"


def open_or_prepare(config: Config) -> Corpus:
    """The corpus that `config` chooses; the automatic one is made on first use. Raises UserError (see Corpus.open)."""
    path = corpus_path(config)
    if (config.data.path is None or _is_source(config)) and not path.exists():
        return prepare_corpus(config, path)
    corpus = Corpus.open(path, config.tokenizer)
    held, asked = list(corpus.manifest["sources"]), list(config.data.sources)
    if {*held, *corpus.manifest.get("empty", ())} != set(asked):
        raise UserError(
            f"data.path={path}: the corpus holds {', '.join(held)}, but data.sources names {', '.join(asked)}; "
            "choose the data= it was made with"
        )
    return corpus


def prepare_corpus(config: Config, path: Path, encoder: Encoder | None = None, how: Preparation = ALONE) -> Corpus:
    """Makes the corpus at `path`, or opens it where it is complete.

    Raises UserError, and ShareDone where other shares of the work are not done yet; what is finished stays for the next run.
    """
    tokenizer = config.tokenizer if encoder is None else None
    if path.exists():
        return _opened(config, path, tokenizer)
    made = encoder or Encoder.load(config.tokenizer)
    sources = {name: open_source(name, source) for name, source in config.data.sources.items()}
    making = Making(config, path, sources, recipe(config), made)
    making.make(how, tokenizer)
    return _opened(config, path, tokenizer)  # another process may have made it


def _opened(config: Config, path: Path, tokenizer: dict[str, str] | None) -> Corpus:
    corpus = Corpus.open(path, tokenizer)
    _check_sources(config, corpus)
    return corpus


def recipe(config: Config) -> dict[str, dict[str, Any]]:
    """What of each source shapes the corpus (its weight does not); what is as ever is left out."""
    usual = {key: value for key, value in asdict(PLAIN).items() if key != "variants"}

    def of(source: SourceConfig) -> dict[str, Any]:
        told = {key: value for key, value in asdict(source).items() if key != "weight" and value != usual.get(key, ...)}
        return told | {"path": _absolute(source)}

    return {name: of(source) for name, source in config.data.sources.items()}


def _absolute(source: SourceConfig) -> str | None:
    """As it is written where it is no path, but the name of a published set."""
    if source.path is None:
        return None
    path = Path(source.path).expanduser()
    return source.path if source.reader == "dataset" and not path.exists() else str(path.resolve())


def _is_source(config: Config) -> bool:
    """Whether `data.path` is where a source lies, as in data=folder, and no corpus."""
    path = config.data.path
    named = path is not None and path in {source.path for source in config.data.sources.values()}
    return named and not (Path(path or "").expanduser() / MANIFEST).is_file()


def _check_sources(config: Config, corpus: Corpus) -> None:
    """Raises UserError where the finished corpus is not what this config would make now."""
    made_of = corpus.manifest["sources"]
    wanted = recipe(config)
    held = {name: {key: value for key, value in facts.items() if key not in FOUND} for name, facts in made_of.items()}
    empty = corpus.manifest.get("empty", {})
    held |= {name: {key: value for key, value in facts.items() if key not in FOUND} for name, facts in empty.items()}
    changed = _differing(held, wanted)
    if not changed:
        now = {name: open_source(name, source).fingerprint for name, source in config.data.sources.items()}
        known = {name: facts["fingerprint"] for name, facts in (made_of | empty).items()}
        changed = _differing(known, now)
    if corpus.manifest.get("duplicates", "keep") != config.data.duplicates:
        changed = [*changed, "data.duplicates"]
    if changed:
        raise UserError(
            f"data.path={corpus.path}: this corpus is complete, but was made of other data ({', '.join(changed)} changed); "
            "delete it to make it anew, or set another data.path"
        )


def _differing(held: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
