"""Does upcycling pay at equal FLOPs? moma_4t4i from scratch against upcycled from moe_1t1i at 10 % and 20 % of the steps.

    python scripts/study_upcycling.py                  # nano, 240 steps, three seeds: docs/results/upcycling.md
    python scripts/study_upcycling.py --size micro --steps 20 --seeds 1 --out runs/study    # a quick try

A seed run is moe_1t1i on the schedule of all steps, stopped at 20 % with checkpoints at 10 % and 20 %. An upcycled run makes
the steps that are left on a schedule of its own, so that every arm makes as many steps in all; one costs nearly the same FLOPs
in both models, and curves are drawn over FLOPs as counted, the seed's included. The last arm is that at 20 % without router
noise; noise of 1 % on the copies' weights tells them apart instead.

Every run is a `python -m momafuse.train` in ROOT; the same command again skips runs that are complete and goes on with the
others. Writes OUT/upcycling.md, .json and .png from their metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from upcycling_study.report import Arm, write_report

REPOSITORY = Path(__file__).resolve().parents[1]
SHARES = (10, 20)  # per cent of the steps that the seed makes
POINTS = 10  # evaluations over all steps
QUIET = ("router.noise=false", "upcycling.weight_noise=0.01")


@dataclass(frozen=True)
class Run:
    folder: Path
    steps: int
    words: tuple[str, ...]

    def complete(self) -> bool:
        try:
            report = json.loads((self.folder / "report.json").read_text())
        except (OSError, ValueError):
            return False
        return bool(report["steps"] == self.steps)

    def done(self) -> int:
        """Steps so far, by its metrics."""
        metrics = self.folder / "metrics.jsonl"
        return metrics.read_bytes().count(b'"train/loss":') if metrics.is_file() else 0

    def train(self, threads: int) -> None:
        """Run it to its end, its output in ROOT/NAME.log. Raises RuntimeError with its last line if it fails."""
        if self.complete():
            return
        command = [sys.executable, "-m", "momafuse.train", *self.words]
        path = os.pathsep.join(p for p in (str(REPOSITORY), os.environ.get("PYTHONPATH")) if p)
        log = self.folder.with_name(f"{self.folder.name}.log")
        with log.open("w") as out:
            env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=env).returncode
        if code:
            last = (log.read_text().strip().splitlines() or ["no output"])[-1]
            raise RuntimeError(f"{self.folder.name}: {last} (whole output: {log})")


def plan(args: argparse.Namespace) -> tuple[list[Run], list[Run], list[Arm]]:
    """The seeds' runs, those that may follow once they are there, and the arms of the study."""
    seeds, others, root, n = [], [], args.root, args.steps
    folders: dict[str, list[Path]] = {}

    def run(arm: str, seed: int, steps: int, experiment: str, *more: str) -> Run:
        folder = root / f"{arm}-{seed}"
        folders.setdefault(arm, []).append(folder)
        common = (f"size={args.size}", f"run.seed={seed}", f"run.root={root}", f"run.name={folder.name}")
        every = (f"trainer.max_steps={steps}", f"trainer.eval_every={n // POINTS}", "logger.wandb=disabled")
        return Run(folder, steps, (f"+experiment={experiment}", *common, *every, *more, *args.set))

    for seed in range(args.seeds):
        kept = ("checkpoint.keep_last=2", f"checkpoint.every={n // POINTS}")
        last = n * max(SHARES) // 100
        seeds.append(run("seed", seed, last, "moe_1t1i", f"optim.schedule_steps={n}", *kept))
        others.append(run("scratch", seed, n, "moma_4t4i", "checkpoint.keep_last=1"))
        for share in SHARES:
            step = n * share // 100
            checkpoint = root / f"seed-{seed}" / "checkpoints" / f"step_{step:08d}"
            more = (f"upcycle={checkpoint}", "checkpoint.keep_last=1")
            others.append(run(f"upcycled{share}", seed, n - step, "moma_4t4i", *more))
        others.append(run("quiet", seed, n - step, "moma_4t4i", *more, *QUIET))
    arms = [Arm("from scratch", folders["scratch"], 0)]
    arms += [Arm(f"upcycled at {s} %", folders[f"upcycled{s}"], n * s // 100, folders["seed"]) for s in SHARES]
    arms.append(Arm(f"at {SHARES[-1]} %, no router noise", folders["quiet"], arms[-1].seed_steps, folders["seed"]))
    return seeds, others, arms


def train_all(batches: list[list[Run]], jobs: int) -> None:
    """One batch after the other, `jobs` runs of it at once; a bar over all steps."""
    runs = [run for batch in batches for run in batch]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    columns = (TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task("", total=sum(run.steps for run in runs))
        for batch in batches:
            pending = {pool.submit(run.train, threads): run for run in batch}
            while pending:
                ended, _ = wait(pending, timeout=1.0, return_when="FIRST_COMPLETED")
                under_way = ", ".join(run.folder.name for run in list(pending.values())[:jobs])
                bar.update(task, completed=sum(run.done() for run in runs), description=under_way)
                for future in ended:
                    del pending[future]
                    if future.exception() is not None:
                        pool.shutdown(cancel_futures=True)
                        future.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=240, help="steps of every arm in all, a multiple of 10 (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (%(default)s)")
    parser.add_argument("--size", default="nano", help="size=... of every run (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (%(default)s)")
    parser.add_argument("--root", type=Path, default=Path("runs/study_upcycling"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="folder of the page (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides for every run")
    args = parser.parse_args()
    if args.steps < POINTS or args.steps % POINTS or args.seeds < 1 or args.jobs < 1:
        parser.error(f"--steps={args.steps} must be a multiple of {POINTS}, --seeds and --jobs at least 1")
    seeds, others, arms = plan(args)
    args.root.mkdir(parents=True, exist_ok=True)
    first, *rest = seeds  # alone: it may have to prepare the corpus
    try:
        train_all([[first], rest, others], args.jobs)
    except RuntimeError as error:
        raise SystemExit(f"study_upcycling: error: {error}") from None
    command = "python scripts/study_upcycling.py " + " ".join(sys.argv[1:])
    print(write_report(arms, args.out, command.strip(), f"{args.size}, {args.steps} steps, {args.seeds} seeds"))


if __name__ == "__main__":
    main()
