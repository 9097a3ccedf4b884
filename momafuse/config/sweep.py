"""What `python -m momafuse.sweep` reads: all that train and launch read, and a set of runs (`configs/sweep`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from momafuse.config.launch import LaunchConfig
from momafuse.config.nearest import did_you_mean
from momafuse.errors import UserError


@dataclass(frozen=True)
class SweepSettings:
    runs: dict[str, list[str]]  # name -> words for momafuse.train
    seeds: list[int]
    fewer_seeds: dict[str, int]  # runs that have so many of the first seeds alone
    auxiliary: bool  # runs in which something chooses among rows get auxiliary routers afterwards
    auxiliary_words: list[str]  # of the auxiliary routers' runs alone
    baseline: str  # the run that the others are compared with
    root: str | None  # folder of the runs; None: runs/NAME
    only: list[str]  # names of runs; empty: all
    stored: str | None  # a folder of metrics that count as runs
    store: bool  # copy what is complete there, train nothing
    dry: bool  # print commands, train nothing
    slurm: bool  # an array of jobs

    def seeds_of(self, run: str) -> list[int]:
        return self.seeds[: self.fewer_seeds.get(run, len(self.seeds))]


@dataclass(frozen=True)
class SweepConfig(LaunchConfig):
    writes_run: ClassVar[bool] = False

    sweep: SweepSettings


def check_sweep(config: SweepConfig) -> None:
    """Raises UserError for what cannot be."""
    s = config.sweep
    named = {"sweep.only": s.only, "sweep.fewer_seeds": list(s.fewer_seeds), "sweep.baseline": [s.baseline]}
    for key, names in named.items():
        for name in names:
            if name not in s.runs:
                raise UserError(f"{key}={name}: no such run{did_you_mean(name, s.runs)} ({', '.join(s.runs)})")
    if not s.seeds or min(s.seeds) < 0 or len(set(s.seeds)) < len(s.seeds):
        raise UserError(f"sweep.seeds={s.seeds}: must be different whole numbers from 0 on, at least one, e.g. [0,1]")
    for name, count in s.fewer_seeds.items():
        if count < 1:
            raise UserError(f"sweep.fewer_seeds.{name}={count}: must be at least 1; leave runs out with sweep.only=[..]")
    if s.store and s.stored is None:
        raise UserError("sweep.store=true: where to? write sweep.stored=FOLDER")
