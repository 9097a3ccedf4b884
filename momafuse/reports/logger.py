"""The reports of a run while it trains: metrics.jsonl, console and W&B, fed with the same rows under the same names.

metrics.jsonl is the truth: tests, plots and resume read it. The other two are views and may fail without harm.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console

from momafuse.config.schema import LoggerConfig
from momafuse.preemption import Preempted
from momafuse.reports.console import ConsoleReport
from momafuse.reports.metrics import MetricsFile, Row
from momafuse.reports.wandb_run import WandbRun


class Logger(Protocol):
    """What the training loop reports to."""

    def step(self, row: Row) -> None: ...
    def evaluation(self, row: Row) -> None: ...
    def message(self, text: str) -> None: ...
    def page(self, path: Path, step: int) -> None: ...


class Silence:
    """The logger of all ranks but the main one."""

    def step(self, row: Row) -> None:
        """Nothing."""

    def evaluation(self, row: Row) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def page(self, path: Path, step: int) -> None:
        """Nothing."""


class RunLogger:
    """The only writer of a run's metrics; use it as a context manager."""

    def __init__(
        self,
        folder: Path,
        config: LoggerConfig,
        *,
        run_config_yaml: str,
        total_steps: int,
        start_step: int,
        log_every: int,
        console: Console | None = None,
    ) -> None:
        """Opens `folder`/metrics.jsonl for the steps after `start_step` and drops what it has of them already.

        `log_every`: steps between lines where the console (default: standard output) is no terminal.
        Raises UserError for a damaged metrics.jsonl.
        """
        self._metrics = MetricsFile(folder / "metrics.jsonl", start_step)
        self._console = ConsoleReport(console or Console(), total_steps, start_step, log_every)
        self._wandb = WandbRun(folder, config, run_config_yaml, self._console.message)

    def step(self, row: Row) -> None:
        """One training step: step, tokens, train/loss, train/loss_MODALITY, perf/tokens_per_second and more."""
        self._metrics.write(row)
        self._wandb.log(row)
        self._console.step(row)

    def evaluation(self, row: Row) -> None:
        """One evaluation: step, tokens, eval/loss_MODALITY, eval/routing."""
        self._metrics.write(row)
        self._wandb.log(row)
        self._console.evaluation(row)

    def message(self, text: str) -> None:
        """A line for people."""
        self._console.message(text)

    def page(self, path: Path, step: int) -> None:
        """The run's page as it stands at this step."""
        self._wandb.page(path, step)

    def close(self, exit_code: int = 0) -> None:
        """Ends all three, W&B last: it may take its time, and its warning needs a console without a bar."""
        self._metrics.close()
        self._console.close()
        self._wandb.close(exit_code)

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(exit_code=0 if error is None or isinstance(error, Preempted) else 1)
