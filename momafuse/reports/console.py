"""What a run says while it trains: a live progress bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from momafuse.reports.metrics import Row

TRAIN = "train/loss_"
HELD_OUT = "eval/loss_"
SPEED = "_per_second"


class ConsoleReport:
    """Shows steps and messages; `log_every` is the distance of plain lines, in steps."""

    def __init__(self, console: Console, total_steps: int, start_step: int, log_every: int) -> None:
        self._console = console
        self._total = total_steps
        self._log_every = log_every
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[losses]}"),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=console,
            )
            self._task = self._bar.add_task("", total=total_steps, completed=start_step, losses="", speed="")
            self._bar.start()

    def step(self, row: Row) -> None:
        """One training step: step, train/loss_MODALITY, perf/UNITS_per_second."""
        step, key = int(row["step"]), next(key for key in row if key.startswith("perf/") and key.endswith(SPEED))
        speed = f"{float(row[key]):,.0f} {key.removeprefix('perf/').removesuffix(SPEED)}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, losses=_losses(row, TRAIN), speed=speed)
        elif step % self._log_every == 0 or step == self._total:
            self.message(f"step {step}/{self._total}  {_losses(row, TRAIN)}  {speed}")

    def evaluation(self, row: Row) -> None:
        """One line: step and eval/loss_MODALITY."""
        if losses := _losses(row, HELD_OUT):
            self.message(f"step {row['step']}/{self._total}  held out: {losses}")

    def message(self, text: str) -> None:
        """A line as it is (no markup, no wrapping at the terminal's width), above the bar if there is one."""
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _losses(row: Row, prefix: str) -> str:
    losses = {key.removeprefix(prefix): float(row[key]) for key in sorted(row, reverse=True) if key.startswith(prefix)}
    return "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
