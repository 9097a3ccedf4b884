"""`python -m momafuse.evaluate run=runs/x routing=both`: held-out loss by modality, source and task, and what routing hides."""

from __future__ import annotations

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point, write
from momafuse.config.evaluate import EvaluateConfig


@entry_point(
    "evaluate",
    help="Held-out loss of a trained run by modality, source and task. routing=training lets experts choose among all rows, "
    "later ones too; routing=causal needs the auxiliary routers of +experiment=aux_routers.",
    schema=EvaluateConfig,
)
def main(job: Job[EvaluateConfig]) -> None:
    from momafuse.evaluation.held_out import evaluate_run  # after composing: a misspelt key should not wait for torch
    from momafuse.evaluation.report import record, save, table

    results = evaluate_run(job.config)
    write(table(results))
    for file in save(results):
        write(f"{file}\n")
    record(results, job.config.logger, lambda line: write(f"{line}\n"))


if __name__ == "__main__":
    main()
