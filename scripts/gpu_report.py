"""Makes docs/results/gpu_NAME.md and .json of what scripts/gpu_check.sh left in a folder.

    python scripts/gpu_report.py runs/gpu_check [NAME]

A part without a result is reported as not measured, with its exit code (124: it ran out of its time).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from timing import device_seconds, paired

REPOSITORY = Path(__file__).parents[1]
STEPS = ("90m", "435m", "435m_4t4i", "435m_4t4i_long", "435m_8x")
ALONE = ("tests", "sanitizer", "first_step_cold", "first_step", "warm", "experts", "attention", "rotary", "profile")
LONGEST = 25  # kernels of a profile that the page shows; the JSON has all
# Words per second and GPU against dense, 435M class on 256 A100: MoMa, arXiv 2407.21770, Table 2.
PAPER = {"dense": 1.0, "moe_8x": 0.91, "moe_1t1i": 0.94, "moma_4t4i": 0.83, "mod_moe_1t1i": 0.79, "mod_moma_4t4i": 0.69}
PEAK = 8192  # rows and columns of the product that shows what the device can do
FACTS = ("device", "dtype", "threads", "rounds", "accumulate", "documents", "torch")


def peak_tflops() -> float | None:
    """TFLOP/s of the best of ten large bf16 products of torch; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    a = torch.randn(PEAK, PEAK, device="cuda").bfloat16()
    (times,) = paired({"product": lambda: a @ a}, 10, a.device, timer=device_seconds, warm=3).values()
    return 2 * PEAK**3 / min(times) / 1e12


def read(folder: Path, part: str) -> dict[str, Any]:
    """The exit code of a part, the last line of its output, and its JSON if it wrote some."""
    code, text = folder / f"{part}.code", folder / f"{part}.txt"
    if not code.exists():
        return {"code": None, "last": "not run", "json": None}
    lines = text.read_text(errors="replace")
    written = folder / f"{part}.json"
    found = written.read_text() if written.exists() else lines[lines.find("{") :]
    try:
        result = json.loads(found)
    except json.JSONDecodeError:
        result = None
    return {"code": int(code.read_text()), "last": lines.strip().splitlines()[-1:], "json": result}


def collect(folder: Path) -> dict[str, Any]:
    parts = {p: read(folder, p) for p in (*ALONE, *(f"step_{s}" for s in STEPS))}
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "no GPU"
    return {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda, "peak_tflops": peak_tflops()} | parts


def outcome(part: dict[str, Any]) -> str:
    return f"not measured (exit code {part['code']}): {part['last']}"


def markdown(heads: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """A table; None is an empty cell."""
    lines = [f"| {heads} |", "|" + "---|" * (heads.count("|") + 1)]
    return lines + ["| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |" for row in rows]


def experts_section(part: dict[str, Any]) -> list[str]:
    if part["json"] is None:
        return [outcome(part)]
    rows = part["json"]["rows"]
    keys = ("dim", "ffn", "experts", "skew", "backend", "forward_ms", "backward_ms")
    ratios = [f"{of}ratio_to_{base}" for of in ("", "layer_") for base in ("dense", "products")]

    def tflops(r: dict[str, Any]) -> str:
        return f"{18 * r['rows'] * r['dim'] * r['ffn'] / (r['forward_ms'] + r['backward_ms']) / 1e9:.0f}"

    heads = "D | F | experts | skew | backend | forward ms | backward ms | TFLOP/s | to dense | to nine products"
    heads += " | with router: to dense | to nine products"
    lines = markdown(heads, ([*(r[k] for k in keys), tflops(r), *(r[k] for k in ratios)] for r in rows))
    return [*lines, "", "Where another backend is ahead of `triton`:", *(slower(rows) or ["nowhere."])]


def rows_section(part: dict[str, Any]) -> list[str]:
    """The rows of a bench as they are, its keys as heads."""
    if part["json"] is None:
        return [outcome(part)]
    rows = part["json"]["rows"]
    return markdown(" | ".join(key.replace("_", " ") for key in rows[0]), (row.values() for row in rows))


def first_step_section(facts: dict[str, Any]) -> list[str]:
    named = {"first_step_cold": "first start (prepares the corpus, compiles)", "first_step": "second start"}
    return [
        f"- {name}: {facts[p]['json']['seconds']} s" if facts[p]["json"] else f"- {name}: {outcome(facts[p])}"
        for p, name in named.items()
    ]


def profile_section(part: dict[str, Any]) -> list[str]:
    if part["json"] is None:
        return [outcome(part)]
    lines = []
    for name, rows in part["json"].items():
        lines += [f"### {name}: {sum(r['ms'] for r in rows):.1f} ms of the device", ""]
        lines += markdown("ms | times | kernel", ([r["ms"], r["count"], f"`{r['kernel'][:100]}`"] for r in rows[:LONGEST]))
        lines += [""]
    return lines


def slower(rows: list[dict[str, Any]]) -> list[str]:
    """The shapes where another way to multiply experts is faster than triton."""
    key = ("dim", "ffn", "experts", "skew", "dtype")
    triton = {tuple(r[k] for k in key): r["ratio_to_dense"] for r in rows if r["backend"] == "triton"}
    sparse = [r for r in rows if not r["backend"].startswith("dense")]
    ahead = [r for r in sparse if r["ratio_to_dense"] < triton.get(tuple(r[k] for k in key), 0)]
    return [
        f"- D {r['dim']}, F {r['ffn']}, {r['experts']} experts, skew {r['skew']}: {r['backend']} {r['ratio_to_dense']} against "
        f"{triton[tuple(r[k] for k in key)]}"
        for r in ahead
    ]


def step_section(part: dict[str, Any], peak: float | None) -> list[str]:
    if part["json"] is None:
        return [outcome(part)]
    head = f"{part['json'].get('accumulate', 1)} micro-batches a step, {part['json'].get('documents', 1)} documents a sequence."
    rows = []
    for name, r in part["json"].items():
        if name not in FACTS:
            mfu = f"{r['tflops'] / peak:.1%}" if peak else "not measured"
            speed = [r["tokens_per_second"], f"{1 / r['ratio']:.2f}", PAPER.get(name, "")]
            rows.append([name, r["seconds"], r["ratio"], r["blocks_ratio"], *speed, r["tflops"], mfu])
    heads = "member | seconds | to dense | blocks to dense | tokens/s | to dense | MoMa's Table 2 | TFLOP/s | share of the peak"
    return [head, "", *markdown(heads, rows)]


def render(facts: dict[str, Any]) -> str:
    peak = facts["peak_tflops"]
    lines = [f"# {facts['device']}", "", "Made by `scripts/gpu_check.sh`; nothing here was written by hand.", ""]
    lines += [f"torch {facts['torch']}, CUDA {facts['cuda']}, bf16. A product of {PEAK} x {PEAK} matrices through torch: "]
    lines[-1] += f"{peak:.0f} TFLOP/s." if peak else "not measured."
    lines += ["", "## Tests", f"- `pytest -m gpu`: {facts['tests']['last']}, exit code {facts['tests']['code']}"]
    lines += [f"- compute-sanitizer: {facts['sanitizer']['last']}, exit code {facts['sanitizer']['code']}", ""]
    lines += ["## From the command to the first step, moma_4t4i at 435m", "", *first_step_section(facts), ""]
    lines += ["## The expert op", "16,384 rows, two groups; device time, ratios of forward and backward together, paired.", ""]
    lines += [*experts_section(facts["experts"]), ""]
    lines += ["## Attention", "4 sequences of 4,096 rows, device time.", "", *rows_section(facts["attention"]), ""]
    lines += ["## QK-norm and rotation", "4 sequences of 4,096 rows, queries and keys of each size's heads; device time.", ""]
    lines += [*rows_section(facts["rotary"]), ""]
    for size in STEPS:
        lines += [f"## A training step, {size}, compiled", *step_section(facts[f"step_{size}"], peak), ""]
    lines += ["## A step at 435m, two micro-batches, by kernel", "", *profile_section(facts["profile"])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="?", default=None, help="of the results; default: that of the GPU")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "docs/results")
    args = parser.parse_args()
    facts = collect(args.folder)
    name = re.sub(r"[^a-z0-9]+", "_", (args.name or facts["device"]).lower()).strip("_")
    path = args.results / f"gpu_{name}"
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    path.with_suffix(".md").write_text(render(facts))
    print(path.with_suffix(".md"))


if __name__ == "__main__":
    main()
