"""One answer: what a run made behind what it was given, its items as files, and each layer's experts of all rows.

What a person types is text, whatever stands in it: only what was dropped is read, never a path in a prompt, for who looks at
a page need not be who may read the files of its machine. `<image>` in the text says where the picture stands; else it stands
before the text. Draws nothing (page.py).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from momafuse.data.codecs import Codec, decodes
from momafuse.errors import UserError
from momafuse.generation.experts import Taken, experts_of_rows
from momafuse.generation.generator import Tick
from momafuse.generation.prompt import ids_of_segments
from momafuse.generation.sampling import Sampling
from momafuse.interface import Model
from momafuse.tokens.vocabulary import TEXT, Vocabulary

File = tuple[str, bytes]  # suffix and content
Prompt = tuple[str, list[int]]  # the text that was typed, which keys what is drawn, and the ids, `bos` first


@dataclass(frozen=True)
class Run:
    """Rows `start` to `stop` of one modality (its number): a stretch of text with its specials, or the codes of an item."""

    modality: int
    start: int
    stop: int


@dataclass(frozen=True)
class Answer:
    ids: list[int]  # of the whole document
    given: int  # how many of them were the prompt
    layers: list[Taken]
    files: dict[int, File]  # of each whole item that can be decoded, by its first row


def answer(
    model: Model, prompt: Prompt, wanted: str, sampling: Sampling, most: int | None = None, tick: Tick | None = None
) -> Answer:
    """`wanted` and `most` as in `Generator.make`; raises UserError where that does."""
    (made,) = next(model.generator.make_behind([prompt], wanted, sampling, most=most, tick=tick))
    given = len(prompt[1])
    ids = [*prompt[1], *made.ids]
    v, codecs = model.vocabulary, model.lm.codecs
    files = {r.start: file for r in runs_of(ids, given, v) if (file := _file(ids, r, v, codecs)) is not None}
    return Answer(ids, given, experts_of_rows(model.lm.model, v, ids), files)


def prompt_of(model: Model, text: str, dropped: Mapping[str, bytes]) -> Prompt:
    """The text and the files that were dropped, by modality. Raises UserError for a file that cannot be read."""
    codecs, items = model.lm.codecs, {}
    for name, data in dropped.items():
        try:
            items[name] = codecs[name].read(data)
        except ValueError as error:
            raise UserError(f"{name}: {error}; drop another file") from error
    parts = re.split(f"<({'|'.join(map(re.escape, codecs))})>", text) if codecs else [text]
    placed = parts[1::2]  # names, between texts
    for name in placed:
        if name not in items or placed.count(name) > 1:
            raise UserError(f"prompt: <{name}> says where the {name} stands: drop one and write it once, or leave it out")
    segments = [(name, item) for name, item in items.items() if name not in placed]
    segments += [(part, items[part]) if n % 2 else (TEXT, part) for n, part in enumerate(parts) if part]
    return text, ids_of_segments(segments, model.lm.tokenizer, codecs, model.vocabulary)


def runs_of(ids: Sequence[int], given: int, vocabulary: Vocabulary) -> Iterator[Run]:
    """In order; none holds rows of both sides of row `given`."""
    table = vocabulary.modality_of_ids()
    for (modality, _), rows in itertools.groupby(range(len(ids)), lambda row: (int(table[ids[row]]), row >= given)):
        first, *rest = rows
        yield Run(modality, first, first + len(rest) + 1)


def _file(ids: Sequence[int], run: Run, vocabulary: Vocabulary, codecs: Mapping[str, Codec]) -> File | None:
    """Of a whole item; None for text, for what was cut, and of a codec that only encodes."""
    m = vocabulary.modalities[run.modality]
    if run.modality == 0 or m.block not in (0, run.stop - run.start) or not decodes(codec := codecs[m.name]):
        return None
    return codec.file(codec.decode(np.array(ids[run.start : run.stop], np.int64) - m.first))
