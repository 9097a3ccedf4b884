"""What the study measured, where people read it: the tables of its page, and the heads of the experiments.

    python -m momafuse.compare 'runs=[docs/results/study/runs]' baseline=dense out=docs/results/study
    python scripts/write_study.py     # docs/results/study.md and configs/experiment/*.yaml, from compare.json

In the page, what stands between `<!-- FOLDER -->` and the next empty line is the table of `FOLDER/compare.json`. In an
experiment, the lines that begin with "# Measured"; those that the study holds no run of keep theirs.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import yaml

from momafuse.comparison.curves import Spread
from momafuse.comparison.tables import number

REPOSITORY = Path(__file__).parents[1]
MACHINE = "one core of an Intel Xeon with AVX512-BF16, beside other work"  # the first of these runs do not record it
BEGINS, ENDS = "# Measured at ", "docs/results/study.md"
PARTS = ("all", "text", "image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=REPOSITORY, help="whose page, results and experiments")
    root = parser.parse_args().repository
    page = root / "docs" / "results" / "study.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8"), page.parent), encoding="utf-8")
    for name, head in heads(root).items():
        path = root / "configs" / "experiment" / f"{name}.yaml"
        path.write_text(with_head(path.read_text(encoding="utf-8"), head), encoding="utf-8")


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "compare.json").read_text(encoding="utf-8"))["rows"]
    return found


def member(row: dict[str, Any]) -> str:
    """A row of one seed has the name of its folder."""
    return re.sub(r"-\d+$", "", row["label"])


def with_tables(page: str, results: Path) -> str:
    def renewed(found: re.Match[str]) -> str:
        return "\n".join([found[1], *table(rows(results / found[2]))]) + "\n"

    return re.sub(r"^(<!-- ([\w/]+) -->)\n(?:.+\n)*", renewed, page, flags=re.MULTILINE)


def table(found: list[dict[str, Any]]) -> list[str]:
    """The best first."""
    heads = ["held out, causal", "seeds", *PARTS, *(f"η {part}" for part in PARTS)]
    lines = []
    for row in sorted(found, key=lambda row: final(row, "all").mean):
        cells = row["measures"]["causal"]
        losses = [number(final(row, part), 3) + ("" if row["is_baseline"] else f" ({cells[part]['difference']:+.3f})")
                  for part in PARTS]  # fmt: skip
        factors = ["1" if row["is_baseline"] else factor(cells[part]["flops"]) for part in PARTS]
        lines.append([f"`{member(row)}`", str(len(row["runs"])), *losses, *factors])
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]


def final(row: dict[str, Any], part: str) -> Spread:
    return Spread(**row["measures"]["causal"][part]["final"])


def factor(f: dict[str, Any]) -> str:
    if f["factor"] is None:
        return "not reached"
    some = f" in {f['factor']['n']} of {len(f['seeds'])}" if f["state"] == "never" else ""
    bound = any(seed["state"] == "bound" for seed in f["seeds"])
    return (f"≥ {f['factor']['mean']:.2f}" if bound else number(Spread(**f["factor"]))) + some


def heads(root: Path) -> dict[str, str]:
    """Experiment -> the lines that say what its runs came to, under causal routing."""
    words = yaml.safe_load((root / "configs" / "sweep" / "iso_flops.yaml").read_text(encoding="utf-8"))["runs"]
    found = {}
    for row in rows(root / "docs" / "results" / "study"):
        sizes = [word.removeprefix("size=").replace("*", "nano") for word in words[member(row)] if word.startswith("size=")]
        found[member(row)] = _head(row, *sizes)
    return found


def _head(row: dict[str, Any], size: str = "nano") -> str:
    runs = row["runs"]
    losses = ", ".join(f"{part} {number(final(row, part), 3)}" for part in PARTS if part != "all")
    minutes = [round(run["seconds"] / 60) for run in runs]
    took = " to ".join(str(m) for m in sorted({min(minutes), max(minutes)}))
    seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
    return (
        f"{BEGINS}size={size} on data=collection, {runs[0]['steps']} steps, {seeds}: held out, causal: {losses} nats;\n"
        f"# {took} minutes on {MACHINE} ({ENDS}).\n"
    )


def with_head(text: str, head: str) -> str:
    """In place of the one that is there, else behind the comments that the file opens with."""
    text = re.sub(rf"^{BEGINS}.*?{re.escape(ENDS)}.*?\n", "", text, flags=re.MULTILINE | re.DOTALL)
    opening = re.match(r"(?:#.*\n)+", text)
    assert opening is not None, "an experiment opens with comments"
    return opening[0] + head + text[opening.end() :]


if __name__ == "__main__":
    main()
