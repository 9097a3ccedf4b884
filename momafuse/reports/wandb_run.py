"""The W&B side of a run. It never stops training: what fails is said once, and the run goes on without it.

Offline (the default) needs no account; `wandb sync RUN/wandb/offline-run-*` uploads later. A run keeps one id, in the file
`wandb_id` of its folder. W&B cannot resume offline: a run that goes on writes a further segment under the same id, and the
segments are synced in their order. The x axis is our own `step`, so that it never goes back.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from momafuse.config.schema import LoggerConfig

FINISH_SECONDS = 60.0  # uploading at the end may hang; the data stays on disk


class WandbRun:
    """One W&B run in `folder`/wandb, or none for `wandb: disabled`; `warn` takes the one line about a failure.

    Its name is that of the folder unless `name` is given; `kind` is W&B's job type.
    """

    def __init__(
        self,
        folder: Path,
        config: LoggerConfig,
        run_config_yaml: str,
        warn: Callable[[str], None],
        *,
        name: str | None = None,
        kind: str = "train",
    ) -> None:
        self._warn = warn
        self._run: Any = None
        if config.wandb == "disabled":
            return
        start = partial(_start, folder, config, run_config_yaml, name or folder.name, kind)
        try:
            self._run = start(config.wandb)
        except Exception as error:  # W&B raises what it likes; training matters more
            if config.wandb == "offline":
                self._warn(f"W&B does not start, the run goes on without it: {_first_line(error)}")
                return
            self._warn(f"W&B is not reachable, the run is recorded offline: {_first_line(error)}")
            try:
                self._run = start("offline")
            except Exception as second:
                self._warn(f"W&B does not start offline either: {_first_line(second)}")

    def log(self, row: Mapping[str, Any], at: int | None = None) -> None:
        """All values of the row under its `step`; rows of one step become one.

        W&B drops what goes back: where steps may, `at` is a number that does not.
        """
        if self._run is None:
            return
        try:
            self._run.log(dict(row), step=int(row["step"]) if at is None else at)
        except Exception as error:
            self._run = None
            self._warn(f"W&B has stopped at step {row['step']}, the run goes on without it: {_first_line(error)}")

    def page(self, path: Path, step: int) -> None:
        """An HTML file, under `page`."""
        if self._run is not None:
            import wandb

            self.log({"step": step, "page": wandb.Html(str(path))})

    def close(self, exit_code: int) -> None:
        """Finishes the run; waits at most FINISH_SECONDS."""
        if self._run is None:
            return
        run, self._run = self._run, None
        failures: list[Exception] = []

        def finish() -> None:
            try:
                run.finish(exit_code=exit_code)
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=finish, name="wandb-finish", daemon=True)
        thread.start()
        thread.join(FINISH_SECONDS)
        if failures or thread.is_alive():
            reason = _first_line(failures[0]) if failures else f"still at work after {FINISH_SECONDS:.0f} s"
            self._warn(f"W&B did not finish: {reason}; what it has is in the run folder, for `wandb sync`")


def _start(folder: Path, config: LoggerConfig, run_config_yaml: str, name: str, kind: str, mode: str) -> Any:
    import wandb  # here, because it takes a second that other entry points need not wait

    run = wandb.init(
        project=config.project,
        entity=config.entity,
        group=config.group,
        tags=config.tags,
        name=name,
        job_type=kind,
        id=_run_id(folder),
        dir=str(folder.absolute()),  # its service, which lives as long as the process, stays in the folder it was started in
        mode=mode,  # type: ignore[arg-type]
        resume="allow" if mode == "online" else None,
        config=OmegaConf.to_container(OmegaConf.create(run_config_yaml)),  # type: ignore[arg-type]
        settings=wandb.Settings(
            silent=True,
            console="off",  # the console is ours
            login_timeout=30,
            finish_timeout=FINISH_SECONDS,
        ),
    )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run


def _run_id(folder: Path) -> str:
    """The id in `wandb_id`, made on the first call."""
    path = folder / "wandb_id"
    if not path.exists():
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_text(secrets.token_hex(4) + "\n", encoding="ascii")
        aside.replace(path)
    return path.read_text(encoding="ascii").strip()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
