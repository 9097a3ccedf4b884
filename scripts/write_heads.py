"""What the study measured, in the heads of the experiments: losses at the end, time, machine.

    python -m momafuse.compare 'runs=[docs/results/study/runs]' baseline=dense out=docs/results/study
    python scripts/write_heads.py     # rewrites the lines of configs/experiment/*.yaml that say what was measured

Experiments that the study holds no run of keep their heads.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
STUDY = REPOSITORY / "docs" / "results" / "study"
EXPERIMENTS = REPOSITORY / "configs" / "experiment"
MACHINE = (
    "one core of an Intel Xeon with AVX512-BF16, beside other work"  # runs do not record it; the study's page says it, too
)
BEGINS, ENDS = "# Measured at ", "docs/results/study.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS)
    folder = parser.parse_args().experiments
    for name, head in heads(STUDY).items():
        path = folder / f"{name}.yaml"
        path.write_text(with_head(path.read_text(encoding="utf-8"), head), encoding="utf-8")
        print(path)


def heads(study: Path) -> dict[str, str]:
    """Experiment -> the lines that say what its runs came to, under causal routing."""
    runs = yaml.safe_load((REPOSITORY / "configs" / "sweep" / "iso_flops.yaml").read_text(encoding="utf-8"))["runs"]
    rows = json.loads((study / "compare.json").read_text(encoding="utf-8"))["rows"]
    found = {}
    for row in rows:
        name = re.sub(r"-\d+$", "", row["label"])
        sizes = [word.removeprefix("size=").replace("*", "nano") for word in runs[name] if word.startswith("size=")]
        found[name] = _head(row, *sizes)
    return found


def _head(row: dict[str, Any], size: str = "nano") -> str:
    runs, cells = row["runs"], row["measures"]["causal"]
    losses = ", ".join(f"{part} {_number(cells[part]['final'])}" for part in cells if part != "all")
    minutes = sorted({round(run["seconds"] / 60) for run in runs})
    took = " to ".join(str(m) for m in sorted({minutes[0], minutes[-1]}))
    seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
    return (
        f"{BEGINS}size={size} on data=collection, {runs[0]['steps']} steps, {seeds}: held out, causal: {losses} nats;\n"
        f"# {took} minutes on {MACHINE} ({ENDS}).\n"
    )


def _number(spread: dict[str, Any]) -> str:
    return f"{spread['mean']:.3f}" + (f" ± {spread['std']:.3f}" if spread["std"] is not None else "")


def with_head(text: str, head: str) -> str:
    """In place of the one that is there, else behind the comments that the file opens with."""
    text = re.sub(rf"^{BEGINS}.*?{re.escape(ENDS)}.*?\n", "", text, flags=re.MULTILINE | re.DOTALL)
    opening = re.match(r"(?:#.*\n)+", text)
    assert opening is not None, "an experiment opens with comments"
    return opening[0] + head + text[opening.end() :]


if __name__ == "__main__":
    main()
