"""Mixtures in stages: other weights from a sequence on, such as the last fifth of a run (Chameleon, arXiv 2405.09818, 2.3.1).

A stage is a pack plan of its own (packing.py) with its own weights, from global sequence `begins[i]` to the next stage's; the
last one goes on for ever. The last window of a stage ends with it. The next begins a new epoch, in the place on every tape
where the totals of the stages before leave it, as one window does behind another: no source begins anew, and what was read is
not read again before the pass is through. A source of weight 0 stands still, and goes on when it comes in again.

All of that is known when a plan is made, so that any sequence is found in constant time, by its stage and then as ever; with
one stage the plan is the same to the byte. Does not know of steps (training/schedule.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from momafuse.data.lines import SourceShare, Start
from momafuse.data.mixture import Ints
from momafuse.data.packing import BEGINNING, PackPlan, Piece, WindowPlan
from momafuse.errors import UserError

if TYPE_CHECKING:
    from momafuse.data.corpus import Split


@dataclass(frozen=True)
class Use:
    """What a stage takes of a source, in a run of so many sequences: `requested` and `realised` are shares of a modality."""

    source: str
    of: str
    requested: float
    realised: float
    tokens: Ints  # (M,) of each modality
    passes: float


class StagedPlan:
    """Finds the pieces of any global sequence, like a PackPlan."""

    def __init__(
        self,
        split: Split,
        budget: tuple[int, ...],
        weights: Sequence[Mapping[str, float]],
        begins: Sequence[int],
        seed: int,
        window: int,
    ) -> None:
        """`weights` by source, of each stage; `begins`: the sequence with which each but the first begins, ascending. The
        others as PackPlan's. UserError where the corpus cannot meet the budget in one of them."""
        if len(weights) != len(begins) + 1 or any(a >= b for a, b in zip((0, *begins), begins, strict=False)):
            raise ValueError(f"{len(weights)} stages cannot begin at {[0, *begins]}")
        self.budget, self.begins = budget, tuple(begins)
        self.plans: list[PackPlan] = []
        start = BEGINNING
        for number, own in enumerate(weights):
            length = begins[number] - start.sequence if number < len(begins) else None
            try:
                plan = PackPlan(split, budget, dict(own), seed, window, start=start, length=length)
            except UserError as error:
                raise error if not number else UserError(f"data.stages[{number - 1}]: from there on, {error}") from error
            self.plans.append(plan)
            start = start if length is None else _after(plan, length)
        self._epochs = [plan.start.epoch for plan in self.plans[1:]]

    def find(self, sequence: int) -> tuple[int, int, int]:
        """Epoch, window in the epoch and place in the window of a global sequence (>= 0); epochs are counted over stages."""
        return self.plans[self.stage(sequence)].find(sequence)

    def window(self, epoch: int, number: int) -> WindowPlan:
        return self.plans[bisect_right(self._epochs, epoch)].window(epoch, number)

    def pieces(self, sequence: int) -> list[Piece]:
        """The pieces of a global sequence, in their order in it."""
        return self.plans[self.stage(sequence)].pieces(sequence)

    def stage(self, sequence: int) -> int:
        """The number of the stage that a sequence lies in."""
        return bisect_right(self.begins, sequence)

    def shares(self) -> list[SourceShare]:
        """Those of the first stage."""
        return self.plans[0].shares()

    def uses(self, sequences: int) -> list[list[Use]]:
        """Of each stage that the first `sequences` reach: what it takes of its sources."""
        ends = [*self.begins[: self.stage(max(0, sequences - 1))], sequences]
        return [_uses(plan, end - plan.start.sequence) for plan, end in zip(self.plans, ends, strict=False)]


def check_changes(plan: StagedPlan) -> None:
    """Raises UserError where a stage leaves every source its share, as weights of sources that are alone with a modality do."""
    shares = [{(use.of, use.source): use.realised for use in _uses(one, 0)} for one in plan.plans]
    for number, (before, after) in enumerate(pairwise(shares)):
        if before == after:
            fill = {of: " and ".join(name for m, name in after if m == of) for of, _ in after}
            problem = "leave every source its share, since weights divide a modality among the sources that fill it"
            remedy = "change them against one another, or take the stage out"
            filled = ", ".join(f"{of} by {names}" for of, names in fill.items())
            raise UserError(f"data.stages[{number}].weights: {problem} ({filled}); {remedy}")


def _after(plan: PackPlan, length: int) -> Start:
    """Where the plan of the next stage begins."""
    epochs, rest = divmod(length, plan.sequences_per_epoch)
    places = dict(plan.start.places)
    for line in plan.lines:
        stood = plan.lines.places(line, epochs, rest).tolist()
        places |= {tape.name: place for tape, place in zip(line.mixture.tapes, stood, strict=True)}
    return Start(plan.start.sequence + length, plan.start.epoch + epochs + (rest > 0), places)


def _uses(plan: PackPlan, length: int) -> list[Use]:
    found = []
    for line in plan.lines:
        ends = plan.lines.places(line, *divmod(length, plan.sequences_per_epoch))
        mixture, of = line.mixture, plan.lines.names[line.modality]
        shares = zip(mixture.requested, mixture.shares.realised.tolist(), strict=True)
        columns = zip(mixture.tapes, line.begin.tolist(), ends.tolist(), shares, strict=True)
        for tape, begin, end, (requested, realised) in columns:
            tokens = tape.tokens_before(end) - tape.tokens_before(begin)
            found.append(Use(tape.name, of, requested, realised, tokens, (end - begin) / tape.length))
    return found
