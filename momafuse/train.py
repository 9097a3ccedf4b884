"""`python -m momafuse.train +experiment=moma_4t4i`: train, go on, or say that the run is complete."""

from __future__ import annotations

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point
from momafuse.config.validate import check_run_root
from momafuse.preemption import listen


@entry_point(
    "train",
    help="Pretrain one model on text and images together: dense, MoE or MoMa, by config. "
    "The same command goes on where it stopped.",
    check=check_run_root,
)
def main(job: Job) -> None:
    from momafuse.training.pretraining import train  # after composing: a misspelt key should not wait for torch

    train(job)


if __name__ == "__main__":
    listen()
    main()
