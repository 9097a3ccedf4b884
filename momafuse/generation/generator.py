"""Prompts to texts, pictures and whatever else a run has learned: the loop around decoder, grammar and sampling.

Sequences of one batch begin together and leave when they end. Guidance compares with the same document without its prompt,
which is decoded beside it; half of the pairs that a run trains on put the item first, so that a document without its text is
nothing new to it. Does not load runs (evaluation/language_model.py) and writes no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from momafuse.data.codecs import Codec, decodes
from momafuse.errors import UserError
from momafuse.generation.decoder import Decoder
from momafuse.generation.grammar import MIXED, Grammar, State
from momafuse.generation.prompt import ids_of
from momafuse.generation.sampling import Sampling, choose, generator, guided
from momafuse.models.transformer import Transformer
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary

Tick = Callable[[int], None]  # ids that were made since the last call


@dataclass(frozen=True)
class Part:
    """A piece of a document: a text, or an item as its codec gives it."""

    modality: str
    value: Any


@dataclass(frozen=True)
class Made:
    """What one prompt gave: the ids behind it, `eos` included where the document ended, and their parts in order."""

    prompt: str
    ids: list[int]
    parts: list[Part]

    @property
    def text(self) -> str:
        return "".join(part.value for part in self.parts if part.modality == TEXT)


@dataclass
class _Sequence:
    """One document while it is made."""

    number: int
    given: list[int]
    state: State
    draws: torch.Generator
    ids: list[int]

    def room(self, length: int) -> int:
        return length - len(self.given) - len(self.ids)


class Generator:
    def __init__(
        self, model: Transformer, text: TextTokenizer, codecs: Mapping[str, Codec], vocabulary: Vocabulary, length: int
    ) -> None:
        """`length`: ids of a document at most, its prompt's included: those of the run's sequences."""
        self.model, self.text, self.codecs, self.vocabulary, self.length = model, text, codecs, vocabulary, length

    def make(
        self,
        prompts: Sequence[str],
        wanted: str,
        sampling: Sampling,
        *,
        samples: int = 1,
        most: int | None = None,
        batch: int = 16,
        tick: Tick | None = None,
    ) -> Iterator[list[Made]]:
        """What `samples` documents behind each prompt are, in order of the prompts; `batch` of them are made at a time.

        `wanted` as in grammar.py; `most` ids are made for each (as many as fit). Every prompt is read before the first is
        answered: raises UserError for one that cannot be, or that leaves no room, and for items that nothing decodes.
        """
        given = [(p, ids_of(p, self.text, self.codecs, self.vocabulary)) for p in prompts]
        return self.make_behind(given, wanted, sampling, samples=samples, most=most, batch=batch, tick=tick)

    def make_behind(
        self,
        given: Sequence[tuple[str, list[int]]],
        wanted: str,
        sampling: Sampling,
        *,
        samples: int = 1,
        most: int | None = None,
        batch: int = 16,
        tick: Tick | None = None,
    ) -> Iterator[list[Made]]:
        """`make` for prompts that are ids, `bos` first; each with a name, which keys what is drawn for it."""
        grammar = Grammar(self.vocabulary, wanted)
        self._check_decoders(wanted)
        waiting = [s for n, prompt in enumerate(given) for s in self._sequences(n, *prompt, grammar, sampling, samples, most)]

        def answers() -> Iterator[list[Made]]:
            done: dict[int, list[Made]] = {}
            for at in range(0, len(waiting), batch):
                group = waiting[at : at + batch]
                self._run(group, grammar, sampling, most, tick)
                for s in group:
                    done.setdefault(s.number, []).append(Made(given[s.number][0], s.ids, self.parts(s.given, s.ids)))
                    if len(done[s.number]) == samples:
                        yield done.pop(s.number)

        return answers()

    def parts(self, given: Sequence[int], ids: Sequence[int]) -> list[Part]:
        """The parts of the ids behind `given`; an item that was begun before goes on with all its codes, one without its end
        is left out unless it may have any length, and one that cannot be decoded always."""
        v, table = self.vocabulary, self.vocabulary.modality_of_ids()
        inside = 0
        found: list[tuple[int, list[int]]] = []
        for place, i in enumerate([*given, *ids]):
            number = int(table[i])
            begin = next((n for n, m in enumerate(v.modalities) if m.frame and i == m.begin), 0)
            if begin:
                inside = begin
                found.append((begin, []))
            elif number and inside == number:
                found[-1][1].append(i)
            elif number == 0:
                was, inside = inside, 0
                if place >= len(given) and v.modality(TEXT).first <= i <= v.modality(TEXT).last:
                    if not found or found[-1][0] or was:
                        found.append((0, []))
                    found[-1][1].append(i)
            if place == len(given) - 1:
                found = found[-1:] if inside else []
        return [part for number, row in found if (part := self._part(number, row)) is not None]

    def _part(self, number: int, ids: list[int]) -> Part | None:
        m = self.vocabulary.modalities[number]
        if not ids or (m.block and len(ids) != m.block) or (number and not decodes(self.codecs[m.name])):
            return None
        codes = np.array(ids, np.int64) - m.first
        return Part(m.name, self.codecs[m.name].decode(codes) if number else self.text.decode(codes.tolist()))

    def _check_decoders(self, wanted: str) -> None:
        for m in self.vocabulary.modalities:
            if m.frame and wanted in (m.name, MIXED) and not decodes(self.codecs[m.name]):
                raise UserError(
                    f"make={wanted}: this run's tokenizer of {m.name} has no decoder, and its codes cannot be made items; "
                    f"make=text, or import again with a file that has it: python -m momafuse.import_ .. {m.name}_tokenizer=FILE"
                )

    def _sequences(
        self,
        number: int,
        prompt: str,
        ids: list[int],
        grammar: Grammar,
        sampling: Sampling,
        samples: int,
        most: int | None,
    ) -> Iterator[_Sequence]:
        if len(ids) >= self.length:
            raise UserError(f"prompt {number + 1} has {len(ids)} tokens, and this run's sequences {self.length}; shorten it")
        state = grammar.start(ids)
        grammar.allowed(state, min(most or self.length, self.length - len(ids)))  # whether what is wanted fits
        for copy in range(samples):
            yield _Sequence(number, ids, state, generator(sampling.seed, prompt, copy), [])

    @torch.inference_mode()
    def _run(
        self, group: Sequence[_Sequence], grammar: Grammar, sampling: Sampling, most: int | None, tick: Tick | None
    ) -> None:
        """Fills the ids of these sequences."""
        going = list(group)
        decoder = Decoder(self.model, self.vocabulary, self.length)
        logits = decoder.start([s.given for s in going])
        free = free_logits = None
        if sampling.guidance != 1:
            free = Decoder(self.model, self.vocabulary, self.length)
            free_logits = free.start([s.given[:1] for s in going])
        while going:
            if free_logits is not None:
                logits = _guided_items(going, logits, free_logits, sampling.guidance)
            rooms = [min(s.room(self.length), (most or self.length) - len(s.ids)) for s in going]
            allowed = torch.stack([grammar.allowed(s.state, room) for s, room in zip(going, rooms, strict=True)])
            ids = choose(logits, allowed.to(logits.device), sampling, [s.draws for s in going]).tolist()
            for s, i in zip(going, ids, strict=True):
                s.ids.append(i)
                s.state = grammar.next(s.state, i)
            if tick is not None:
                tick(len(ids))
            on = [n for n, (s, room) in enumerate(zip(going, rooms, strict=True)) if room > 1 and not s.state.ended]
            if len(on) < len(going):
                going, ids = [going[n] for n in on], [ids[n] for n in on]
                if not going:
                    return
                for d in (decoder, free):
                    if d is not None:
                        d.select(on)
            logits = decoder.step(ids)
            free_logits = None if free is None else free.step(ids)


def _guided_items(going: Sequence[_Sequence], logits: Tensor, free: Tensor, guidance: float) -> Tensor:
    """Guided inside of items; text goes as it is."""
    inside = torch.tensor([s.state.modality > 0 for s in going], device=logits.device)
    return torch.where(inside[:, None], guided(logits, free, guidance), logits)
