"""Makes a corpus: reads sources in chunks, encodes each to a part file, assembles the parts aside and renames the whole.

A killed run goes on after the parts that are there, and the result does not depend on where it was killed, on how many
processes did the work, or on which machine did which share of it. A document with an item that cannot be decoded is left out
and listed; too many of them stop the run.
"""

from __future__ import annotations

import glob
import json
import math
import shutil
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from momafuse import __version__
from momafuse.config.prepare import Preparation
from momafuse.config.schema import Config
from momafuse.data import chunks
from momafuse.data import corpus as store
from momafuse.data.encoding import Encoder
from momafuse.data.layout import layout_of, source_info
from momafuse.data.progress import Progress
from momafuse.data.sources import Source
from momafuse.data.workers import Task, Workers, cores, result
from momafuse.data.writer import Facts, assemble, part_path, parts, write_json, write_lines
from momafuse.errors import UserError
from momafuse.files import locked
from momafuse.preemption import asked, heeding, leave_if

PARTS = 3  # the form of the files that an unfinished corpus is made of
FOUND = ("fingerprint", "left_out", "duplicates")  # what a manifest says of a source that is no setting of it
FIRST = "leaving after the parts at work; Ctrl-C again leaves at once, without them"
OFF = 2.0  # times as much or as little as asked is held out: told


class ShareDone(Exception):
    """The share of the work that was asked for is done, but not those of others."""


def _look() -> None:
    """Leaves if it was asked."""
    leave_if(asked(), "parts that are done are kept")


@dataclass
class _Found:
    """What became of a source."""

    parts: int  # in all, of whatever share
    documents: int = 0
    rejects: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, facts: Facts) -> None:
        self.documents += facts.items
        self.rejects += facts.rejects
        self.left_out.update(facts.left_out)


class Making:
    """The making of one corpus; `recipe` is what of each source shapes it."""

    def __init__(
        self,
        config: Config,
        path: Path,
        sources: Mapping[str, Source],
        recipe: Mapping[str, Mapping[str, Any]],
        encoder: Encoder,
    ) -> None:
        self.config, self.path, self.sources, self.recipe, self.encoder = config, path, sources, recipe, encoder
        self.aside = store.unfinished(path)

    def make(self, how: Preparation, tokenizer: Mapping[str, str] | None) -> None:
        """`tokenizer` is what other processes load the encoder by. Where another process makes the corpus at the same time,
        waits for it. Raises UserError, and ShareDone where other shares of the work are missing."""
        try:
            self.aside.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot make {self.aside.parent} ({error.strerror}); set it to another place"
            raise UserError(f"data.path={self.path}: {problem}") from error
        share = how.share
        mine = self._lock(f"{share[0] + 1}-{share[1]}")
        with locked(mine, wait=False) as free:
            if not free:
                line = f"{self.path} is being prepared by another process; waiting for it"
                Progress().say(line)
        with locked(mine):
            if self.path.exists():  # another process has just made it
                return
            self._begin(mine)
            workers = Workers(self.encoder, tokenizer, self.config.plugins, how.workers or cores())
            with Progress() as progress, heeding(FIRST), workers:
                found = {name: self._source(number, name, share, workers, progress) for number, name in enumerate(self.sources)}
                with locked(self._lock("finish")):
                    if not self.path.exists():
                        self._check_whole(found, share)
                        _look()
                        self._finish(found, progress)
                        self.aside.rename(self.path)

    def _lock(self, name: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{name}.lock")

    def _begin(self, mine: Path) -> None:
        """Keeps the unfinished folder where it was made by the same plan, else starts it anew; UserError where another
        process is about another plan there."""
        plan, file = self._plan(), self.aside / "plan.json"
        with locked(self._lock("begin")):
            if self.aside.exists() and not (file.is_file() and json.loads(file.read_text(encoding="utf-8")) == plan):
                for lock in set(self.path.parent.glob(f".{glob.escape(self.path.name)}.*-*.lock")) - {mine}:
                    with locked(lock, wait=False) as free:
                        if not free:
                            problem = "another process prepares other data there; wait for it, or set another data.path"
                            raise UserError(f"data.path={self.path}: {problem}")
                shutil.rmtree(self.aside)
            if not self.aside.exists():
                self.aside.mkdir()
                write_json(file, plan)

    def _plan(self) -> dict[str, Any]:
        """What finished parts depend on: with another plan they are worthless."""
        return {
            "parts": PARTS,
            "sources": self.recipe,
            "content": {name: source.fingerprint for name, source in self.sources.items()},
            "tokenizers": self._tokenizers(),
            "chunk": [chunks.DOCUMENTS, chunks.ITEMS, chunks.CHARACTERS, chunks.BYTES],
            "marked": self.config.data.duplicates != "keep",
        }

    def _source(self, number: int, name: str, share: tuple[int, int], workers: Workers, progress: Progress) -> _Found:
        """Writes the parts of this share that are missing."""
        source, config = self.sources[name], self.config.data.sources[name]
        there = self._there(number)
        whole = next((n for n in range(len(there) + 1) if n not in there), 0)  # parts from the first on without a gap
        found = _Found(whole)
        for n in range(whole):
            found.add(there[n])
        total = source.documents if config.limit is None else min(config.limit, source.documents or config.limit)
        progress.source(name, total, found.documents)
        for note in source.notes:
            progress.say(f"data.sources.{name}: {note}")
        running: deque[Future[Facts]] = deque()

        def collect(leave: int) -> None:
            while len(running) > leave:
                facts = result(running.popleft())
                found.add(facts)
                progress.advance(facts.items, facts.tokens, len(facts.rejects))

        items = chunks.read(name, source, found.documents, config.limit, progress.say, _look)
        for chunk in chunks.chunks(items, config.variants):
            _look()
            n = found.parts
            found.parts += 1
            if n in there:
                found.add(there[n])
                progress.advance(there[n].items)
            elif n % share[1] == share[0]:
                marked = self.config.data.duplicates != "keep"
                task = Task(part_path(self.aside, number, n), chunk, config.variants, config.filters, marked)
                running.append(workers.submit(task))
                collect(workers.ahead)
        collect(0)
        if share[1] == 1:
            self._check_rejects(number, name, found)
        return found

    def _there(self, number: int) -> dict[int, Facts]:
        """The finished parts of a source; a file that is not whole is taken away."""
        there = {}
        for n, path in parts(self.aside, number).items():
            try:
                there[n] = Facts.load(path)
            except (OSError, ValueError, KeyError, EOFError, BadZipFile):
                path.unlink()
        return there

    def _check_rejects(self, number: int, name: str, found: _Found) -> None:
        config, most = self.config.data.sources[name], self.config.data.max_rejects
        if found.parts == 0 and not self.sources[name].may_be_empty:
            raise UserError(
                f"data.sources.{name}.path={config.path}: the source holds no documents; set it to data or take it out"
            )
        if len(found.rejects) > most * found.documents:
            for path in parts(self.aside, number).values():  # so that repaired files are read again
                path.unlink()
            write_lines(self.aside / "rejects.jsonl", self._listed(name, found))
            key, reason = found.rejects[0]
            share = math.ceil(1000 * len(found.rejects) / found.documents) / 1000
            raise UserError(
                f"data.sources.{name}: {len(found.rejects)} of {found.documents} documents cannot be used, more than "
                f"data.max_rejects={most:g} allows; the first is {key} ({reason}); repair or remove those listed in "
                f"{self.aside / 'rejects.jsonl'} and run the same again, or allow more: data.max_rejects={share:g}"
            )

    def _check_whole(self, found: Mapping[str, _Found], share: tuple[int, int]) -> None:
        """Raises ShareDone where parts of other shares are missing, and UserError where all shares have too many rejects."""
        if share[1] > 1:
            wanted = {(s, n) for s, name in enumerate(self.sources) for n in range(found[name].parts)}
            missing = wanted - {(s, n) for s in range(len(self.sources)) for n in parts(self.aside, s)}
            if missing:
                shares = sorted({n % share[1] + 1 for _, n in missing})
                listed = ", ".join(f"{n}/{share[1]}" for n in shares[:8]) + (" .." if len(shares) > 8 else "")
                done = f"prepare.shard={share[0] + 1}/{share[1]} is done"
                raise ShareDone(f"{done}; the corpus is made when {listed} are done, too")
            for number, name in enumerate(self.sources):
                found[name].documents, found[name].rejects, found[name].left_out = 0, [], Counter()
                for facts in self._there(number).values():
                    found[name].add(facts)
                self._check_rejects(number, name, found[name])

    def _finish(self, found: Mapping[str, _Found], progress: Progress) -> None:
        """Assembles the splits and writes the manifest last."""
        how = self.config.data.duplicates
        used = {name: number for number, name in enumerate(self.sources) if found[name].parts}
        splits, duplicates = assemble(self.aside, used, self.encoder.vocabulary, how)
        evaluation = all(source.held_out_only for source in self.sources.values())
        for split, facts in splits.items():
            if not facts["documents"] and not (split == "train" and evaluation):
                few = "give it more documents, or hold out more of a source: data.sources.NAME.held_out"
                remedy = few if split == "validation" else "all documents are held out or rejected"
                raise UserError(f"data.sources: no {split} documents; {remedy}")
        rejects = [row for name in self.sources for row in self._listed(name, found[name])]
        write_lines(self.aside / "rejects.jsonl", rejects)
        described = {name: self._described(name, found[name], duplicates.get(name, 0)) for name in self.sources}
        manifest = {
            "version": layout_of(self.encoder.vocabulary),
            "momafuse": __version__,
            "name": self.config.data.name,
            "vocabulary": self.encoder.vocabulary.to_dict(),
            "tokenizers": self._tokenizers(),
            "encoder_device": self.encoder.device,
            "sources": {name: described[name] for name in used},
            "rejects": len(rejects),
            "splits": splits,
        }
        if len(used) < len(described):
            manifest["empty"] = {name: facts for name, facts in described.items() if name not in used}
        if how != "keep":
            manifest["duplicates"] = how
        self._say_held_out(splits, progress)
        for file in [*self.aside.glob("part_*"), self.aside / "plan.json"]:
            file.unlink()
        write_json(self.aside / store.MANIFEST, manifest)

    def _described(self, name: str, found: _Found, duplicates: int) -> dict[str, Any]:
        facts: dict[str, Any] = {**self.recipe[name], "fingerprint": self.sources[name].fingerprint}
        if found.left_out:
            facts["left_out"] = dict(sorted(found.left_out.items()))
        return facts | ({"duplicates": duplicates} if duplicates else {})

    def _say_held_out(self, splits: Mapping[str, Any], progress: Progress) -> None:
        """A line for every source that holds out much more or less than was asked of it."""
        held = dict.fromkeys(self.sources, 0)
        whole = Counter(held)
        for split, facts in splits.items():
            for source in (source_info(entry, self.encoder.vocabulary) for entry in facts["sources"]):
                whole[source.name] += sum(source.tokens)
                held[source.name] += sum(source.tokens) * (split == "validation")
        for name, tokens in whole.items():
            asked, reached = self.sources[name].held_out, held[name] / max(1, tokens)
            if asked and tokens and not asked / OFF <= reached <= asked * OFF:
                remedy = f"set data.sources.{name}.held_out, or give it more documents"
                progress.say(f"data.sources.{name}: {reached:.2%} of its tokens are held out, {asked:.2%} were asked; {remedy}")

    def _listed(self, name: str, found: _Found) -> list[dict[str, str]]:
        return [{"source": name, "key": key, "reason": reason} for key, reason in found.rejects]

    def _tokenizers(self) -> dict[str, dict[str, str]]:
        prints = self.encoder.fingerprints
        return {modality: {"name": name, "fingerprint": prints[modality]} for modality, name in self.config.tokenizer.items()}
