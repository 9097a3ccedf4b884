"""The interface of scripts/bench_experts.py: JSON rows with ratios to dense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ROW = "backend dim ffn rows groups experts dtype forward_ms backward_ms ratio_to_dense ratio_to_products".split()


def test_it_writes_the_documented_rows(tmp_path):
    out = tmp_path / "rows.json"
    words = [
        "--sizes",
        "micro",
        "--experts",
        "1",
        "2",
        "--skew",
        "0",
        "0.5",
        "--rows",
        "64",
        "--rounds",
        "2",
        "--dtypes",
        "fp32",
    ]
    subprocess.run([sys.executable, "scripts/bench_experts.py", *words, "--out", out], cwd=REPOSITORY, check=True)
    result = json.loads(out.read_text())
    assert all(set(ROW) <= set(row) for row in result["rows"])
    cases = {(row["experts"], row["skew"]): [] for row in result["rows"]}
    for row in result["rows"]:
        cases[row["experts"], row["skew"]].append(row["backend"])
        assert row["forward_ms"] > 0
        assert row["ratio_to_dense"] > 0
        assert row["backend"] != "dense" or row["ratio_to_dense"] == 1.0
    every = ["dense", "nine products", "dense torch", "reference", "bmm", "grouped_mm"]
    assert cases == {(1, 0.0): every, (2, 0.0): every, (2, 0.5): [b for b in every if b != "bmm"]}
    parts = next(row["parts_ms"] for row in result["rows"] if row["backend"] == "bmm")
    assert list(parts) == ["route", "gather", "products", "combine"]
