"""What the user sees while a VQ tokenizer trains: a live bar, or plain lines where the output is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from momafuse.vq.training import Progress as Figures

LINES = 500  # steps between plain lines


@contextmanager
def training_bar(console: Console, steps: int) -> Iterator[Figures]:
    """With the loss and the time left."""
    columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}")]
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps, loss=float("nan"))

        def show(step: int, figures: dict[str, float]) -> None:
            bar.update(task, completed=step, loss=figures["loss"])
            if not console.is_terminal and (step % LINES == 0 or step == steps):
                left = figures["seconds"] / step * (steps - step)
                console.print(f"step {step}/{steps}  loss {figures['loss']:.4f}  {left / 60:.1f} min left")

        yield show
