"""How many sequences (or items) a rank takes at once: `trainer.micro_batch` is the most that fits, and what is taken divides.

    share = global_batch / ranks
    taken = the largest m <= micro_batch that divides share, in whole pools where something chooses among the rows of a pool

So a run starts at any number of ranks that its batch can be dealt to, and no result hangs on what is taken (but for
rounding). Everything that trains, plans or counts a micro-batch reads a config that was `fitted`; what is typed stays in
config.yaml, for other numbers of ranks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from momafuse.config.schema import RunnableConfig
from momafuse.errors import UserError

C = TypeVar("C", bound=RunnableConfig)


def fitted(config: C, ranks: int) -> C:
    """The config whose `trainer.micro_batch` is what each of `ranks` takes. Raises UserError where there is none."""
    t, whole = config.trainer, config.together
    if t.micro_batch < whole:
        raise UserError(f"trainer.micro_batch={t.micro_batch}: must be at least router.pool={whole}, which is routed as one")
    if t.global_batch % (ranks * whole):
        raise UserError(f"trainer.global_batch={t.global_batch}: {_cannot_be_dealt(t.global_batch, ranks, whole)}")
    return replace(config, trainer=replace(t, micro_batch=largest(t.global_batch // ranks, t.micro_batch, whole)))


def largest(share: int, most: int, whole: int) -> int:
    """The largest multiple of `whole` up to `most` that divides `share`; 0 if there is none."""
    return next((m for m in range(most // whole * whole, 0, -whole) if share % m == 0), 0)


def in_place(asked: RunnableConfig, taken: RunnableConfig, ranks: int) -> str:
    """A line for people, empty where they are the same: what is taken in place of what was asked for, and why."""
    t, mine = asked.trainer, taken.trainer.micro_batch
    if mine == t.micro_batch:
        return ""
    dealt = f" over {ranks} ranks" if ranks > 1 else ""
    pools = "" if largest(t.global_batch // ranks, t.micro_batch, 1) == mine else f", in whole pools of {asked.together}"
    return f"micro_batch {mine} in place of {t.micro_batch}: global_batch={t.global_batch}{dealt}{pools}"


def _cannot_be_dealt(batch: int, ranks: int, whole: int) -> str:
    """What a step would need, and the nearest that there is."""
    unit = ranks * whole
    pools = f"router.pool={whole}" if whole > 1 else ""
    nearest = " or ".join(str(n) for n in (batch // unit * unit, (batch // unit + 1) * unit) if n)
    if ranks == 1:
        return f"must be a multiple of {pools}, e.g. {nearest}"
    fewer = next((n for n in range(ranks - 1, 0, -1) if batch % (n * whole) == 0), 0)
    start = f"; or start {fewer} rank{'s' * (fewer > 1)}" if fewer else ""
    return f"{ranks} ranks{f' with {pools}' if pools else ''} need a multiple of {unit}, e.g. {nearest}{start}"
