"""Rules about the stages of a mixture: each one, and that they stand in order.

Which step each begins with is known when a run starts (training/schedule.py), whether the corpus can fill its sequences when
they are planned (data/stages.py).
"""

from __future__ import annotations

from momafuse.config.nearest import did_you_mean
from momafuse.config.schema import DataConfig
from momafuse.errors import UserError


def check_stages(data: DataConfig) -> None:
    """Raises UserError for the first rule that a stage breaks."""
    before = 0.0
    for number, stage in enumerate(data.stages):
        key = f"data.stages[{number}]"
        if not 0 < stage.from_ < 1:
            problem = "must lie between 0 and 1: a share of the run's planned length, e.g. 0.8"
            raise UserError(f"{key}.from={stage.from_}: {problem}")
        if stage.from_ <= before:
            problem = f"must be above {before}, where the stage before it begins; put them in order"
            raise UserError(f"{key}.from={stage.from_}: {problem}")
        before = stage.from_
        if not stage.weights:
            raise UserError(f"{key}.weights={{}}: name at least one source, e.g. {{{next(iter(data.sources))}: 0.5}}")
        for name, weight in stage.weights.items():
            if name not in data.sources:
                known = ", ".join(data.sources)
                raise UserError(f"{key}.weights.{name}={weight}: no such source{did_you_mean(name, data.sources)} ({known})")
            if weight < 0:
                raise UserError(f"{key}.weights.{name}={weight}: must not be negative; 0 takes the source out")
