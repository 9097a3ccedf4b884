"""The files of a comparison: OUT/compare.md, .json, .csv and figures; and one W&B run of the kind `compare`, in OUT.

The same stored metrics give the same files on any machine, byte for byte, but for figures and for W&B, which has its own ids
and dates.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from momafuse.comparison import figures
from momafuse.comparison.records import CSV, as_json, lines
from momafuse.comparison.rows import Comparison
from momafuse.comparison.run import MEASURES
from momafuse.comparison.tables import markdown
from momafuse.config.results import sanitise
from momafuse.config.schema import LoggerConfig
from momafuse.errors import UserError
from momafuse.files import write_aside
from momafuse.reports.wandb_run import WandbRun


def default_out(c: Comparison) -> Path:
    """comparison/ROWS-against-BASELINE beside the baseline's first run."""
    named = [row.label for row in c.rows if not row.is_baseline]
    bases = "+".join(row.label for row in c.rows if row.is_baseline)
    return c.rows[0].runs[0].path.parent / "comparison" / sanitise("+".join([*named, "against", bases]))


def save(c: Comparison, out: Path) -> list[str]:
    """Write everything; returns the paths. Figures that an earlier comparison left there and this one has not go."""
    if (out / "config.yaml").exists():
        raise UserError(f"out={out}: is the folder of a run; name another")
    out.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(c, out)
    for name in set(figures.NAMES) - set(drawn):
        (out / name).unlink(missing_ok=True)
    write_aside(out / "compare.md", markdown(c) + "".join(f"\n![{Path(name).stem}]({name})\n" for name in drawn))
    write_aside(out / "compare.json", json.dumps(as_json(c), indent=1, allow_nan=False) + "\n")
    write_aside(out / "compare.csv", _csv(c))
    return [str(out / name) for name in ("compare.md", "compare.json", "compare.csv", *drawn)]


def _csv(c: Comparison) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV)
    writer.writerows([["" if value is None else value for value in line] for line in lines(c)])
    return text.getvalue()


def record(c: Comparison, out: Path, logger: LoggerConfig, yaml: str, warn: Callable[[str], None]) -> None:
    """`ROW/MEASURE/PART/NAME` for the loss at the end, eta, the share of steps and the factor in seconds; and the table."""
    if logger.wandb == "disabled":
        return
    import wandb

    row: dict[str, Any] = {"step": 0}
    for one in c.rows:
        for measure in MEASURES:
            for part, cell in one.cells[measure].items():
                f = cell.factors
                found = {"eta": f["flops"].found, "share_of_steps": f["tokens"].shares, "seconds_factor": f["seconds"].found}
                for name, value in {"final": cell.final, **found}.items():
                    row |= {} if value is None else {f"{one.label}/{measure}/{part}/{name}": value.mean}
    cells: list[list[Any]] = lines(c)
    row["comparison"] = wandb.Table(columns=list(CSV), data=cells)
    run = WandbRun(out, logger, yaml, warn, name=out.resolve().name, kind="compare")
    run.log(row, at=int(time.time()))
    run.close(0)
