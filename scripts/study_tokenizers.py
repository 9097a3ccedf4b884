"""What image tokenizers keep of held-out pictures, source by source, at two sizes: docs/results/image_tokenizers.{md,json,png}.

    python scripts/fetch_corpus.py pictures; python scripts/fetch_corpus.py photographs
    python scripts/study_tokenizers.py                                        # the shipped ones
    python scripts/study_tokenizers.py starter_vq_v2 tokenizers/mine.safetensors --out tokenizers

All have as many codes for a picture, so equal bits. Codes used are counted over all pictures of all sources, at the first size.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from momafuse.config.compose import compose_jobs
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.tokenizers.reading import Found, read_pictures
from momafuse.vision.pictures import PictureSet
from momafuse.vision.report import measure
from momafuse.vision.tokenizer import ImageTokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = ("starter_vq_v1", "starter_vq_v2")
SIZES = (64, 128)
SHOWN = 3  # pictures of each source on the sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", nargs="*", default=list(SHIPPED), help="names, or paths of weights (%(default)s)")
    parser.add_argument("--data", default="pictures", help="file of the group data (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides, of data.sources...")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="folder of the page (%(default)s)")
    asked = parser.parse_args()
    job = compose_jobs(["tokenizer=starter_vq", f"data={asked.data}", *asked.set], "train_tokenizer", TokenizerTraining)[0]
    found: dict[str, Any] = {}
    for size in SIZES:
        read = read_pictures(job.config.data.sources, size, larger=False)
        for name in asked.tokenizers:
            tokenizer = ImageTokenizer.load(f"{name}@{size}")
            found.setdefault(str(size), {})[name] = judged(tokenizer, read, everything=size == SIZES[0])
        if size == SIZES[0]:
            asked.out.mkdir(parents=True, exist_ok=True)
            sheet(asked.tokenizers, read, size, asked.out / "image_tokenizers.png")
    (asked.out / "image_tokenizers.json").write_text(json.dumps(found, indent=1) + "\n")
    text = page(found, "python scripts/study_tokenizers.py " + " ".join(sys.argv[1:]))
    (asked.out / "image_tokenizers.md").write_text(text)
    print(text)


def judged(tokenizer: ImageTokenizer, read: Found, *, everything: bool) -> dict[str, Any]:
    """The report on held-out pictures; with `everything`, codes used are those of all pictures."""
    numbers = [n for n, heldout in enumerate(read.heldout) if heldout or everything]
    data = PictureSet(
        pictures=read.pictures.of(numbers),
        titles=[read.titles[n] for n in numbers],
        kinds=[read.kinds[n] for n in numbers],
        heldout=torch.tensor([read.heldout[n] for n in numbers]),
    )
    report = dataclasses.asdict(measure(tokenizer, data)) | {"sha256": tokenizer.fingerprint}
    return report if everything else {key: value for key, value in report.items() if key != "train"}


def page(found: dict[str, Any], command: str) -> str:
    lines = ["# Image tokenizers, compared", "", f"`{command.strip()}`: what is kept of held-out pictures.", ""]
    for size, reports in found.items():
        names, first = list(reports), next(iter(reports.values()))
        lines += [f"## {size} x {size} pixels, {(int(size) // 8) ** 2} codes", ""]
        lines += ["| source | held out | " + " | ".join(names) + " | |", "|---|---|" + "---|" * (len(names) + 1)]
        for source in ["all", *first["heldout_by_kind"]]:
            parts = [r["heldout"] if source == "all" else r["heldout_by_kind"][source] for r in reports.values()]
            gained = parts[-1]["psnr_pooled"] - parts[0]["psnr_pooled"]
            cells = [said(part) for part in parts]
            lines.append(f"| {source} | {parts[0]['pictures']} | " + " | ".join(cells) + f" | {gained:+.2f} dB |")
        kernel = " | ".join("-" if r["kernel_distance"] is None else f"{r['kernel_distance']:.3f}" for r in reports.values())
        lines += [f"| kernel distance | | {kernel} | |", ""]
        if size == str(SIZES[0]):
            used = [f"{name} {r['codes_used']:,} ({r['codes_used'] / r['codes']:.1%}), perplexity {r['perplexity']:,.0f}"
                    for name, r in reports.items()]  # fmt: skip
            lines += ["Codes used over all pictures: " + "; ".join(used) + ".", ""]
    lines += [
        "PSNR pooled / mean, dB; SSIM; perceptual distance (EfficientNet-Lite0), lower is better. Last column: PSNR pooled.",
        "",
    ]
    return "\n".join([*lines, "![Held-out pictures of each source, and what is left of them](image_tokenizers.png)", ""])


def said(part: dict[str, Any]) -> str:
    more = "".join("; -" if part[key] is None else f"; {part[key]:.3f}" for key in ("ssim", "perceptual"))
    return f"{part['psnr_pooled']:.2f} / {part['psnr_mean']:.2f}{more}"


def sheet(names: Sequence[str], read: Found, size: int, out: Path) -> None:
    """A column for each picture, a line for the originals and one for each tokenizer."""
    numbers: list[int] = []
    for source in dict.fromkeys(read.kinds):
        held = [n for n, kind in enumerate(read.kinds) if kind == source and read.heldout[n]]
        numbers += [held[i] for i in np.linspace(0, len(held) - 1, min(SHOWN, len(held))).round().astype(int)]
    pictures = read.pictures.of(numbers)
    lines = {"original": pictures}
    for name in names:
        tokenizer = ImageTokenizer.load(f"{name}@{size}")
        lines[Path(name).stem] = tokenizer.decode(tokenizer.encode(pictures))
    figure = Figure(figsize=(len(numbers) + 2, len(lines) + 0.3), layout="constrained")
    for line, (name, shown) in zip(figure.subplots(len(lines), len(numbers), squeeze=False), lines.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        for number, panel, picture in zip(numbers, line, shown, strict=True):
            panel.imshow(np.asarray(picture.permute(1, 2, 0)))
            panel.set(xticks=[], yticks=[])
            if name == "original":
                panel.set_title(read.kinds[number], fontsize=6)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
