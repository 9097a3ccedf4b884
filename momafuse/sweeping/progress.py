"""How far a run is, by its metrics.jsonl and report.json alone; reads what is new since it looked last. Loads no weights."""

from __future__ import annotations

import json
from pathlib import Path

from momafuse.reports.metrics import Value, read_report

TRAIN, HELD_OUT, SPEED = "train/loss_", "eval/loss_", "perf/tokens_per_second"


class Progress:
    """Of the run in `folder`: `step`, losses by modality of the last step and of the last evaluation, seconds of all steps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._forget()

    def _forget(self) -> None:
        self._read, self._tokens = 0, 0.0
        self.step, self.seconds = 0, 0.0
        self.train: dict[str, float] = {}
        self.held_out: dict[str, float] = {}

    def look(self) -> None:
        """Read what has been added. A file that has become shorter (a run that goes on cuts rows off) is read anew."""
        try:
            with (self._folder / "metrics.jsonl").open("rb") as file:
                if file.seek(0, 2) < self._read:
                    self._forget()
                file.seek(self._read)
                text = file.read()
        except OSError:
            self._forget()
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                self._add(json.loads(line))
            except ValueError:  # for the run itself to complain of
                continue
        if (seconds := read_report(self._folder).get("seconds")) is not None:
            self.seconds = float(seconds)

    def _add(self, row: dict[str, Value]) -> None:
        def losses(prefix: str) -> dict[str, float]:
            return {key.removeprefix(prefix): float(value) for key, value in row.items() if key.startswith(prefix)}

        if "train/loss" in row:
            self.step, self.train = int(row["step"]), losses(TRAIN)
            tokens, speed = float(row.get("tokens", 0)), float(row.get(SPEED, 0))
            self.seconds += (tokens - self._tokens) / speed if speed else 0.0
            self._tokens = tokens
        if held_out := losses(HELD_OUT):
            self.held_out = held_out
