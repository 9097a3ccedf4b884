"""The runs of a sweep: name, words for momafuse.train, and the config that these compose into. Looks at no run folder.

    ROOT/NAME-SEED        the words of the file, then the user's, run.root, run.name, run.seed
    ROOT/NAME-SEED-aux    its auxiliary routers, where something chooses among rows: of the user's words those that are not
                          the model's, not the data's and not about how long

`size=*_mod` in a file is the size with the FLOPs of the one that is asked for. Every command is composed before any runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

from momafuse.config.compose import Job, compose, group_options
from momafuse.config.inherit import MAY_DIFFER, SECTIONS
from momafuse.config.schema import Config
from momafuse.config.sweep import SweepConfig, SweepSettings
from momafuse.config.validate import check_run_root
from momafuse.errors import UserError
from momafuse.training.schedule import total_steps

OWN = re.compile(r"(\+\+|\+|~)?(sweep\b|launch\.|cluster\b)")  # words of the sweep, not of its runs
TAKEN = {  # keys that runs get from the sweep -> what to write instead
    "experiment": "its runs are named in configs/sweep; your own set: FOLDER/sweep/NAME.yaml with --config-dir FOLDER",
    "run.name": "runs are named NAME-SEED; set sweep.root",
    "run.root": "write sweep.root=...",
    "run.seed": "write sweep.seeds=[..]",
    "model_from": "auxiliary routers follow by themselves with sweep.auxiliary=true",
    "resume": "every run of a sweep goes on by itself",
}
OF_PRETRAINING = ("optim", "optim.*", "upcycle", "upcycling.*", "trainer.max_steps", "trainer.max_tokens", "trainer.eval_every",
                  "checkpoint.*")  # fmt: skip


@dataclass(frozen=True)
class Run:
    name: str  # of its folder
    member: str  # its name in the file, `-aux` behind that of auxiliary routers
    seed: int
    words: tuple[str, ...]  # for momafuse.train
    job: Job
    after: str | None  # the run whose model these auxiliary routers are of

    @property
    def config(self) -> Config:
        return self.job.config

    @property
    def folder(self) -> Path:
        return Path(self.config.run.root) / self.name

    @property
    def steps(self) -> int:
        return total_steps(self.config)

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.name}.log")

    @property
    def lock(self) -> Path:
        """Held by the sweep that makes the run."""
        return self.folder.with_name(f".{self.name}.lock")


@dataclass(frozen=True)
class Plan:
    name: str
    root: Path
    runs: tuple[Run, ...]  # in the order in which they are made: seed by seed
    notes: tuple[str, ...]  # what a user should know
    baseline: str | None  # the name of its model, where it is one of the runs

    def auxiliary_of(self, run: Run) -> Run | None:
        return next((other for other in self.runs if other.after == run.name), None)


def make_plan(job: Job[SweepConfig]) -> Plan:
    """Raises UserError for words that a run of the sweep cannot take."""
    s, name = job.config.sweep, job.choices["sweep"]
    root = s.root or f"runs/{name}"
    users = [word for word in job.overrides if not OWN.match(word)]
    for word in users:
        if (key := _key(word)) in TAKEN:
            raise UserError(f"{word}: {TAKEN[key]}")
    notes: list[str] = []
    members: dict[str, tuple[str, ...]] = {}
    for member in s.only or s.runs:
        members[member] = _words(name, member, s.runs[member], users, job, notes)
    runs: list[Run] = []
    for seed in s.seeds:
        for member, words in members.items():
            if seed in s.seeds_of(member):
                try:
                    runs += _with_auxiliary(s, member, seed, words, users, root, job.user_dir)
                except UserError as error:
                    raise UserError(f"sweep={name}: run {member}: {error}") from error
    check_run_root(runs[0].config)
    baseline = next((run.config.model.name for run in runs if run.member == s.baseline), None)
    return Plan(name, Path(root), tuple(runs), tuple(notes), baseline)


def _words(
    sweep: str, member: str, own: Sequence[str], users: Sequence[str], job: Job[SweepConfig], notes: list[str]
) -> tuple[str, ...]:
    """Those of the file and the user's. Raises UserError where the user sets what makes the member what it is."""
    size, sizes = job.choices["size"], group_options(job.user_dir)["size"]
    words = []
    for word in own:
        if word.startswith("size=") and "*" in word:
            wanted = word.removeprefix("size=").replace("*", size)
            if wanted not in sizes:
                notes.append(f"{member}: there is no size={wanted}; it runs at size={size}, at other FLOPs than the others")
                continue
            word, users = f"size={wanted}", [other for other in users if _key(other) != "size"]
        words.append(word)
    own_keys = {_key(word) for word in words}
    for word in users:
        if (key := _key(word)) in own_keys:
            raise UserError(f"{word}: run {member} of sweep={sweep} sets {key} itself; leave it out, or leave {member} out")
    return *words, *users


def _with_auxiliary(
    s: SweepSettings, member: str, seed: int, words: Sequence[str], users: Sequence[str], root: str, user_dir: Path | None
) -> list[Run]:
    name = f"{member}-{seed}"
    words = (*words, f"run.root={root}", f"run.name={name}", f"run.seed={seed}")
    run = Run(name, member, seed, words, compose(words, user_dir=user_dir), after=None)
    if not (s.auxiliary and run.config.needs_auxiliary):
        return [run]
    more = [word for word in users if _is_of_any_stage(_key(word))]
    words = ("+experiment=aux_routers", f"model_from={run.folder}", *more, *s.auxiliary_words)
    words = (*words, f"run.root={root}", f"run.name={name}-aux")
    return [run, Run(f"{name}-aux", f"{member}-aux", seed, words, _composed_after(run, words, user_dir), after=name)]


def _composed_after(run: Run, words: Sequence[str], user_dir: Path | None) -> Job:
    """The auxiliary routers' job, which reads the config of a run that may not be there yet."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text(run.job.yaml)
        job = compose([*words, f"model_from={folder}"], user_dir=user_dir)
        config = replace(job.config, model_from=str(run.folder))
        return replace(job, config=config, yaml=job.yaml.replace(folder, str(run.folder)))


def _is_of_any_stage(key: str) -> bool:
    brought = key.partition(".")[0] in SECTIONS and key not in MAY_DIFFER
    return not brought and not any(fnmatchcase(key, pattern) for pattern in OF_PRETRAINING)


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]
