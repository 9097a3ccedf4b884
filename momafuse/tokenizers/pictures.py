"""A run that trains the image tokenizer on folders of pictures, or on the starter pack.

Leaves OUT/NAME.safetensors, .json (figures), .png (held-out pictures and what is left of them) and, where there are any,
_rejects.txt: pictures that cannot be used, each with the reason.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from rich.console import Console

from momafuse.errors import UserError
from momafuse.reports.plots import plot_reconstructions
from momafuse.tokenizers.bar import training_bar
from momafuse.tokenizers.picture_folders import load_folders
from momafuse.vision.config import VQConfig
from momafuse.vision.perceptual import LEAST_SIDE, NETWORK
from momafuse.vision.pictures import PictureSet, load_starter_pictures
from momafuse.vision.report import Report
from momafuse.vision.tokenizer import ImageTokenizer
from momafuse.vision.training import train_vq

SHEET = 48  # held-out pictures on the sheet, spread over all kinds


def train_image_tokenizer(config: VQConfig, out: Path, console: Console) -> None:
    """Raises UserError for folders that are missing or hold nothing to train on."""
    size = config.architecture.image_size
    data, rejects = load_folders(config.folders, size) if config.folders else (load_starter_pictures(size), [])
    heldout = int(data.heldout.sum())
    if heldout == len(data.pictures):
        raise UserError(f"tokenizer.folders={list(config.folders)}: {heldout} pictures are too few; give more")
    console.print(f"{len(data.pictures) - heldout} pictures to train on, {heldout} held out; {torch.get_num_threads()} threads")
    if rejects:
        out.mkdir(parents=True, exist_ok=True)
        listed = out / f"{config.name}_rejects.txt"
        listed.write_text("".join(f"{path}\t{reason}\n" for path, reason in rejects), "utf-8", "replace")
        console.print(f"{len(rejects)} cannot be used: {listed}", soft_wrap=True)
    with training_bar(console, config.steps) as progress:
        trained, report = train_vq(config, data, out, progress)
    figures = dataclasses.asdict(report) | {"config": dataclasses.asdict(config), "threads": torch.get_num_threads()}
    path = out / config.name
    Path(f"{path}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    _summary(console, report)
    _sheet(trained, data, Path(f"{path}.png"))
    console.print(
        f"{path}.safetensors  sha256 {trained.fingerprint}\nfigures {path}.json, reconstructions {path}.png", soft_wrap=True
    )


def _summary(console: Console, report: Report) -> None:
    console.print(
        f"codes used {report.codes_used} of {report.codes} ({report.codes_used / report.codes:.1%}; "
        f"{report.codes_used_train} on training pictures alone), perplexity {report.perplexity:.0f}"
    )
    by_kind = [(f"held out, {kind}", part) for kind, part in report.heldout_by_kind.items()]
    for name, part in [("held out", report.heldout), *by_kind, ("train", report.train)]:
        more = {"SSIM": part.ssim, f"perceptual ({NETWORK})": part.perceptual}
        figures = "".join(f", {what} {value:.3f}" for what, value in more.items() if value is not None)
        psnr = f"PSNR mean {part.psnr_mean:.2f} dB, pooled {part.psnr_pooled:.2f} dB"
        console.print(f"{name} ({part.pictures}): {psnr}{figures}", soft_wrap=True)
    if report.heldout.perceptual is None:
        console.print(f"no perceptual distances: they need {LEAST_SIDE} pixels a side and pip install 'momafuse[perceptual]'")
    elif report.kernel_distance is not None:
        console.print(f"held out and what is left of it, as sets: kernel distance ({NETWORK}) {report.kernel_distance:.4f}")


def _sheet(tokenizer: ImageTokenizer, data: PictureSet, path: Path) -> None:
    rows = data.heldout.nonzero().flatten()
    rows = rows[torch.linspace(0, len(rows) - 1, min(SHEET, len(rows))).round().long()]
    originals = data.pictures[rows]
    decoded = tokenizer.decode(tokenizer.encode(originals))
    plot_reconstructions(list(originals.numpy()), list(decoded.numpy()), [data.titles[int(row)] for row in rows], path)
