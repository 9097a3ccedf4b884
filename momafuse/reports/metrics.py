"""metrics.jsonl: one JSON object a line, one line a step, and one for each evaluation. And report.json, how a run ended.

A row is written by one system call before the next step begins, so a SIGKILL loses the row of the step at work and no
more; a line that was torn all the same (a full disk, a power cut) is dropped when the file is opened next. Floats stand
with the digits of `repr`, so they read back to the last bit; a loss without a target is `NaN`. Keys: step, tokens, the
rest by name.

It does not keep history: a run that goes on from step s drops the rows after s, which it is about to make again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from momafuse.errors import UserError
from momafuse.files import write_aside

Value = float | int | str
Row = Mapping[str, Value]
FIRST_KEYS = ("step", "tokens")


class MetricsFile:
    """Appends rows to `path`; opening drops the rows after `start_step` (0: all of them)."""

    def __init__(self, path: Path, start_step: int) -> None:
        """Raises UserError if a line in the middle of an existing file is no row."""
        keep = [row for row in read_metrics(path) if int(row["step"]) <= start_step] if start_step else []
        text = "".join(map(_line, keep))
        if path.exists() and path.read_text(encoding="utf-8") != text:
            write_aside(path, text)
        self._file = path.open("ab", buffering=0)

    def write(self, row: Row) -> None:
        """One line, in the hands of the operating system when this returns."""
        self._file.write(_line(row).encode("utf-8"))

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Value]]:
    """All rows of a metrics.jsonl, without a torn last line; none if there is no file. Raises UserError for a bad line."""
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")  # what follows the last line end is no whole line
    rows: list[dict[str, Value]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            int(row["step"])
        except (ValueError, TypeError, KeyError):
            if number == len(lines) and not rest:
                break
            raise UserError(f"{path}: line {number} is no row of metrics; repair it or start a new run") from None
        rows.append(row)
    return rows


def read_report(folder: Path) -> dict[str, Any]:
    """The report.json of a run folder; empty where there is none that can be read: the run is not whole."""
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _line(row: Row) -> str:
    keys = [key for key in FIRST_KEYS if key in row] + sorted(key for key in row if key not in FIRST_KEYS)
    return json.dumps({key: row[key] for key in keys}) + "\n"
