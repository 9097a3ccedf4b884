"""`python -m momafuse.compare runs='[runs/dense,runs/moma_4t4i]' baseline=dense`: speed-ups, tables and figures."""

from __future__ import annotations

from pathlib import Path

from momafuse.config.compare import CompareConfig
from momafuse.config.compose import Job
from momafuse.config.entry import entry_point, write


@entry_point(
    "compare",
    help="With how many times fewer FLOPs, steps and seconds runs reach the loss that a baseline ends at, overall and by "
    "modality, in training and held out, with training and causal routing. Reads what runs have stored and trains nothing.",
    schema=CompareConfig,
)
def main(job: Job[CompareConfig]) -> None:
    from momafuse.comparison.report import default_out, record, save  # after composing: a misspelt key need not wait for torch
    from momafuse.comparison.rows import compare
    from momafuse.comparison.tables import markdown

    asked = job.config
    found = compare(asked.runs, asked.baseline, incomplete=asked.incomplete)
    out = default_out(found) if asked.out is None else Path(asked.out).expanduser()
    write(markdown(found) + "\n")
    for file in save(found, out):
        write(f"{file}\n")
    record(found, out, asked.logger, job.yaml, lambda line: write(f"{line}\n"))


if __name__ == "__main__":
    main()
