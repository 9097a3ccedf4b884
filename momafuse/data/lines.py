"""Which sources fill which modality of the sequences, in what order, and how far each has come after any number of them.

A line is the sources of one modality, shared out by weight (mixture.py). Lines stand in the order in which they fill
sequences: modalities whose items have a fixed length first, then open ones, both by number, text last. A source belongs to the
first of these that it holds items of: what else its documents hold comes with them, and counts. So line i brings on average

    n_i = (budget_i - what the lines before bring of its modality) / tokens a place     places (items or tokens) a sequence

and stands after s sequences at the place that the exact totals of the lines before leave. The first line is measured in whole
sequences; one pass over its source that ends first at its weight is the epoch. Sources that hold a modality without a budget
are not used. Where a stage of the mixture begins (stages.py), every tape goes on at the place where it stood, and lines count
from there. Deals nothing to sequences (packing.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from momafuse.config.schema import share_key
from momafuse.data.budget import check_text
from momafuse.data.mixture import Ints, Mixture, Tape, key_of
from momafuse.errors import UserError

if TYPE_CHECKING:
    from momafuse.data.corpus import Split
    from momafuse.data.layout import SourceInfo


@dataclass(frozen=True)
class SourceShare:
    """A source's share of the budget of a modality, and its passes in an epoch."""

    source: str
    of: str  # the modality
    requested: float
    realised: float
    passes: float

    def __str__(self) -> str:
        asked, got = f"{self.requested:.2%}", f"{self.realised:.2%}"
        return f"{self.source}: {got} of the {self.of} budget (asked {asked}), {self.passes:.2f} passes an epoch"


@dataclass(frozen=True)
class Start:
    """Where a plan begins: a global sequence, the number of its first epoch, and the place on the tape of each source."""

    sequence: int = 0
    epoch: int = 0
    places: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Line:
    """`places` and `rates` are means: places a sequence, and tokens of each modality (M,) that a place brings."""

    modality: int
    mixture: Mixture
    first: bool
    unit: int  # tokens of its modality in a place: of an item where they have a fixed length, else 1
    rates: npt.NDArray[np.float64]
    begin: Ints  # the place on each tape from which it counts
    places: float = 0.0
    later_text: int = 0  # tokens of text that the lines behind it, text aside, need in a sequence

    @property
    def whole(self) -> bool:
        """Whether its items have a fixed length, and are never cut."""
        return self.mixture.tapes[0].whole

    @property
    def reserve(self) -> Ints:
        """(M,) tokens of other modalities that an item brings, rounded up."""
        reserve: Ints = np.ceil(self.rates).astype(np.int64)
        reserve[self.modality] = 0
        return reserve

    @property
    def brought(self) -> Ints:
        """(M,) tokens of each modality before `begin`."""
        stood = [(tape, place) for tape, place in zip(self.mixture.tapes, self.begin.tolist(), strict=True) if place]
        return sum((tape.tokens_before(place) for tape, place in stood), np.zeros(len(self.rates), np.int64))

    def on_tapes(self, place: int) -> Ints:
        """Of a place on the line: the place on each tape."""
        places: Ints = self.begin + self.mixture.shares.split(place)
        return places


class Lines:
    """The lines of a budget, in filling order."""

    def __init__(
        self, split: Split, budget: tuple[int, ...], weights: dict[str, float], window: int, key: int, start: Start
    ) -> None:
        """Arguments as PackPlan's. UserError where the corpus cannot meet the budget."""
        self._split, self._budget, self._start = split, budget, start
        self._lines = self._build(weights, window, key)
        self._brought = [line.brought for line in self._lines]
        self._first = self._lines[0]
        self._measure()
        self._check_text()
        self.sequences_per_epoch, self._aligned = self._epoch()

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities."""
        return self._split.vocabulary.names

    @property
    def text(self) -> Line | None:
        """The line of text alone."""
        last = self._lines[-1]
        return None if last.modality else last

    @property
    def documents(self) -> float:
        """Documents of the first line in a sequence; items where they have a fixed length."""
        line = self._first
        if line.whole:
            return line.places
        documents = sum(tape.documents for tape in line.mixture.tapes)
        return line.places / (sum(tape.length for tape in line.mixture.tapes) / documents)

    def places(self, line: Line, epoch: int, sequences: int) -> Ints:
        """Place on each tape of a line after that many sequences of an epoch."""
        if line is not self._first or not line.modality:
            return line.on_tapes(self.place(line, epoch, sequences))
        each, split = int(line.places), line.mixture.shares.split
        step = np.where(self._aligned, [tape.length for tape in line.mixture.tapes], split(self.sequences_per_epoch * each))
        places: Ints = line.begin + epoch * step + split(sequences * each)
        return places

    def place(self, line: Line, epoch: int, sequences: int) -> int:
        """Place on a line, but the first, after that many sequences of an epoch."""
        tokens = (epoch * self.sequences_per_epoch + sequences) * self._budget[line.modality]
        for earlier, before in zip(self._lines[: self._lines.index(line)], self._brought, strict=False):
            tokens += int(before[line.modality])
            places = self.places(earlier, epoch, sequences).tolist()
            for tape, place in zip(earlier.mixture.tapes, places, strict=True):
                tokens -= int(tape.tokens_before(place)[line.modality])
        return max(0, tokens) // line.unit

    def shares(self) -> list[SourceShare]:
        """Requested and realised share of every source in use."""
        result = []
        for line in self._lines:
            modality = self._split.vocabulary.names[line.modality]
            if line is self._first and line.modality:
                taken = line.mixture.shares.split(self.sequences_per_epoch * int(line.places))
            else:
                taken = line.mixture.shares.split(self.place(line, 1, 0))
            for i, tape in enumerate(line.mixture.tapes):
                realised, passes = float(line.mixture.shares.realised[i]), int(taken[i]) / tape.length
                result.append(SourceShare(tape.name, modality, line.mixture.requested[i], realised, passes))
        return result

    def _build(self, weights: dict[str, float], window: int, key: int) -> list[Line]:
        """The lines that have sources."""
        modalities, lines = self._split.vocabulary.modalities, list[Line]()
        left = [s for s in self._split.sources if s.documents and _weight(weights, s) > 0]
        for m in [*sorted(range(1, len(modalities)), key=lambda m: modalities[m].block == 0), 0]:
            held = [s for s in left if (s.items[m] if m else s.plain)]
            left = [s for s in left if s not in held]
            held = [s for s in held if not any(n and not b for n, b in zip(s.items[1:], self._budget[1:], strict=True))]
            if held and (m == 0 or self._budget[m]):
                tapes = [Tape(self._split, s, window, m, key_of(key, s.name)) for s in held]
                mixture = Mixture(tapes, [weights[s.name] for s in held])
                rates = mixture.shares.realised @ np.stack([tape.tokens / tape.length for tape in tapes])
                begin = np.array([self._start.places.get(s.name, 0) for s in held], np.int64)
                lines.append(Line(m, mixture, not lines, modalities[m].block or 1, rates, begin))
            elif m and self._budget[m]:
                brought = any(line.rates[m] for line in lines)
                problem = f"no source with a weight above 0 has {modalities[m].name} items"
                if brought:
                    self._refuse(
                        m, f"{problem} to fill with, but for those with other ones", "add a source of them alone or with text"
                    )
                self._refuse(m, problem, "the nearest valid share is 0")
        if not lines:
            raise UserError("data.sources: no text to fill with; add a text-only source with a weight above 0")
        return lines

    def _measure(self) -> None:
        """Places and text of every line; UserError where the lines before it bring more of its modality than the budget."""
        brought = np.zeros(len(self._budget))
        for line in self._lines:
            m = line.modality
            missing = self._budget[m] - float(brought[m])
            if m and missing < 0:
                least = f"raise it to at least {brought[m] / sum(self._budget):.3g}"
                self._refuse(
                    m, f"documents of other lines bring {brought[m]:.1f} tokens of {self._budget[m]} on average", least
                )
            if m and self._budget[m] % line.unit:
                problem = f"{self._budget[m]} tokens in a sequence, but an item has {line.unit}"
                self._refuse(m, problem, f"choose a multiple of {line.unit / sum(self._budget):g}")
            line.places = max(0.0, missing) / line.unit
            brought += line.places * line.rates
        later = 0
        for line in reversed([line for line in self._lines if line.modality]):
            line.later_text = later
            frames = len(self._split.vocabulary.modalities[line.modality].frame) if line.whole else 0
            later += max(int(np.ceil(line.places * line.rates[0])), frames * self._budget[line.modality] // line.unit)

    def _check_text(self) -> None:
        line, m = self._first, self._first.modality
        if m:
            key, text = share_key(self._split.vocabulary.names[m]), self._budget[0] - line.later_text
            check_text(key, text, self._budget[m], sum(self._budget), line.unit, float(line.rates[0]), self.text is not None)

    def _epoch(self) -> tuple[int, list[bool]]:
        """Sequences of an epoch, and which sources of the first line begin every epoch with a fresh pass: of one that begins in
        the midst of its tapes, none."""
        mixture, places = self._first.mixture, int(self._first.places)
        lengths = np.array([tape.length for tape in mixture.tapes])
        low, high = 1, 2 + int(max(lengths / mixture.shares.realised)) // places
        while high - low > 1:  # low sequences fit into one pass of every source, high do not
            middle = (low + high) // 2
            fits = bool((mixture.shares.split(middle * places) <= lengths).all())
            low, high = (middle, high) if fits else (low, middle)
        rest = lengths - mixture.shares.split(low * places)
        return low, [bool(0 <= r < places) and not self._start.places for r in rest.tolist()]

    def _refuse(self, m: int, problem: str, remedy: str) -> NoReturn:
        share = self._budget[m] / sum(self._budget)
        raise UserError(f"{share_key(self._split.vocabulary.names[m])}={share:g}: {problem}; {remedy}")


def _weight(weights: dict[str, float], source: SourceInfo) -> float:
    if source.name not in weights:
        raise UserError(f"data.sources: {source.name} is in the corpus but has no weight; add data.sources.{source.name}")
    return weights[source.name]
