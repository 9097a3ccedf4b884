"""Which quantizers collapse? The starter tokenizer with each of them, on the same pictures, at equal codes, steps and seed.

    OMP_NUM_THREADS=1 python scripts/study_quantizers.py --jobs 2       # docs/results/quantizers.{md,json,png}
    python scripts/study_quantizers.py --steps 40 --out runs/study      # a quick try

Every arm is a `python -m momafuse.train_tokenizer tokenizer=starter_vq` with some overrides, in ROOT; the same command again
skips those that are there. Codes used, perplexity of their use (8,192 where all are used alike) and what is kept
are those of the tokenizer's report: use over all pictures, the others on the held-out ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from momafuse.config.results import sanitise
from momafuse.vision.pictures import load_starter_pictures
from momafuse.vision.tokenizer import ImageTokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
SHOWN = 8
# After VQGAN: codes in the plane, drawn near zero, learned by gradient, beta 0.25, from the first step.
PLAIN = """kind=learned space=plane first=random restart_below=0 commitment_weight=0.25 PLAIN=0"""
DRAWN = "first=random restart_below=0 PLAIN=0"
ARMS = {
    "plain vector quantization": PLAIN,
    "plain, with restart of dead codes": f"{PLAIN} restart_below=0.1",
    "plain, with the rotation trick": f"{PLAIN} estimator=rotation",
    "SimVQ": f"{PLAIN} kind=sim",
    "SimVQ, with the rotation trick": f"{PLAIN} kind=sim estimator=rotation",
    "learned, on the sphere": f"kind=learned {DRAWN}",
    "EMA, on the sphere": DRAWN,
    "EMA, on the sphere, k-means": "restart_below=0",
    "EMA, on the sphere, k-means, restart (ours)": "",
    "ours, with the rotation trick": "estimator=rotation",
    "finite scalar 8 x 8 x 8 x 16": "kind=fsq space=cube levels=[8,8,8,16] PLAIN=0 DIM=4",
}


def overrides(words: str) -> list[str]:
    """Later words win."""
    found = dict(word.split("=", 1) for word in words.split())
    names = {"PLAIN": "tokenizer.plain_steps", "DIM": "tokenizer.architecture.code_dim"}
    return [f"{names.get(key, f'tokenizer.quantizer.{key}')}={value}" for key, value in found.items()]


def folder_of(name: str, root: Path) -> Path:
    return root / "".join(c if c.isalnum() else "_" for c in name)


def run(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The report of an arm, trained if it is not there. Raises RuntimeError with its last line if it fails."""
    folder = folder_of(name, asked.root)
    report = folder / "tokenizer.json"
    if not report.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        words = ["tokenizer=starter_vq", "tokenizer.name=tokenizer", f"trainer.max_steps={asked.steps}", *overrides(ARMS[name])]
        words += [*asked.set, f"out={folder}", f"run.root={folder}", "run.name=run", "logger.wandb=disabled"]
        command = [sys.executable, "-m", "momafuse.train_tokenizer", *words]
        log = folder / "log.txt"
        with log.open("w") as out:
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY).returncode
        if code:
            last = (log.read_text().strip().splitlines() or ["no output"])[-1]
            raise RuntimeError(f"{name}: {last} (whole output: {log})")
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def page(found: dict[str, dict[str, Any]], command: str) -> str:
    first = next(iter(found.values()))
    config, size = first["config"], first["config"]["tokenizer"]["architecture"]["image_size"]
    pictures = f"{first['train']['pictures']:,} pictures to train on, {first['heldout']['pictures']} held out"
    lines = [
        "# Quantizers, compared",
        "",
        f"`{command}`: the architecture of `starter_vq`, {config['trainer']['max_steps']:,} steps of "
        f"{config['trainer']['global_batch']} pictures of {size} px, seed {config['run']['seed']}; {pictures}, "
        f"{first['codes']:,} codes. One run each. Arms with k-means begin with 300 steps "
        "without codes, the others have codes from the first step; codes have 16 numbers, those of finite scalar four.",
        "",
        "| quantizer | codes used | perplexity | PSNR held out, pooled | mean | SSIM | perceptual | kernel |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, r in found.items():
        used = f"{r['codes_used']:,} ({r['codes_used'] / r['codes']:.1%})"
        quality = r["heldout"]
        psnr = f"{quality['psnr_pooled']:.2f} dB | {quality['psnr_mean']:.2f} dB"
        values = (quality["ssim"], quality["perceptual"], r["kernel_distance"])
        judged = " | ".join("-" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {used} | {r['perplexity']:,.0f} | {psnr} | {judged} |")
    return "\n".join([*lines, "", "![Held-out pictures, and what each quantizer keeps of them](quantizers.png)", ""])


def sheet(names: Iterable[str], root: Path, out: Path, size: int) -> None:
    """A line for each quantizer, a column for each held-out picture."""
    data = load_starter_pictures(size)
    rows = data.heldout.nonzero().flatten()
    pictures = data.pictures[rows[torch.linspace(0, len(rows) - 1, SHOWN).round().long()]]
    lines = {"original": pictures}
    for name in names:
        tokenizer = ImageTokenizer.load(str(folder_of(name, root) / "tokenizer.safetensors"))
        lines[name] = tokenizer.decode(tokenizer.encode(pictures))
    figure = Figure(figsize=(SHOWN + 3, len(lines)), layout="constrained")
    panels = figure.subplots(len(lines), SHOWN, squeeze=False)
    for line, (name, shown) in zip(panels, lines.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        for panel, picture in zip(line, shown, strict=True):
            panel.imshow(np.asarray(picture.permute(1, 2, 0)))
            panel.set(xticks=[], yticks=[])
    figure.savefig(out, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of every arm (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="arms at once (%(default)s)")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS), metavar="ARM", help="some of them")
    parser.add_argument("--root", type=Path, default=Path("runs/study_quantizers"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="folder of the page (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides for every arm")
    asked = parser.parse_args()
    asked.root = asked.root.resolve() / "-".join([str(asked.steps), *(sanitise(word) for word in asked.set)])
    with ThreadPoolExecutor(asked.jobs) as pool:
        pending = {name: pool.submit(run, name, asked) for name in asked.arms}
        try:
            bar = track(pending.items(), "arms", console=Console(stderr=True), total=len(pending))
            found = {name: future.result() for name, future in bar}
        except RuntimeError as error:
            pool.shutdown(cancel_futures=True)
            raise SystemExit(f"study_quantizers: error: {error}") from None
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "quantizers.json").write_text(json.dumps(found, indent=1) + "\n")
    text = page(found, "python scripts/study_quantizers.py " + " ".join(sys.argv[1:]))
    (asked.out / "quantizers.md").write_text(text)
    size = next(iter(found.values()))["config"]["tokenizer"]["architecture"]["image_size"]
    sheet(found, asked.root, asked.out / "quantizers.png", size)
    print(text)


if __name__ == "__main__":
    main()
