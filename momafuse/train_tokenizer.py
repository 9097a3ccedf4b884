"""`python -m momafuse.train_tokenizer tokenizer=starter_vq`: trains the image tokenizer (or the BPE) on the starter pack.

Writes OUT/NAME.safetensors, OUT/NAME.json (the figures on held-out pictures) and OUT/NAME.png (a sheet of reconstructions); of
a BPE, OUT/NAME.model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.data.starter_bpe import train_starter_bpe
from momafuse.reports.plots import plot_reconstructions
from momafuse.vision.config import VQConfig
from momafuse.vision.pictures import PictureSet, load_starter_pictures
from momafuse.vision.report import Report
from momafuse.vision.tokenizer import ImageTokenizer
from momafuse.vision.training import Progress as Figures
from momafuse.vision.training import train_vq

SHEET = 48  # held-out pictures on the sheet, spread over both kinds
LINES = 500  # steps between lines where the output is no terminal


@entry_point("train_tokenizer", help="Train a tokenizer on the embedded starter pack.", schema=TokenizerTraining)
def main(job: Job[TokenizerTraining]) -> None:
    tokenizer, out = job.config.tokenizer, Path(job.config.out)
    if isinstance(tokenizer, VQConfig):
        _train_image_tokenizer(tokenizer, out)
    else:
        trained = train_starter_bpe(tokenizer, out)
        Console().print(f"{trained.name}  {trained.pieces} pieces  sha256 {trained.fingerprint}", soft_wrap=True)


def _train_image_tokenizer(config: VQConfig, out: Path) -> None:
    console = Console()
    data = load_starter_pictures(config.architecture.image_size)
    heldout = int(data.heldout.sum())
    console.print(f"{len(data.pictures) - heldout} pictures to train on, {heldout} held out; {torch.get_num_threads()} threads")
    with _bar(console, config.steps) as progress:
        trained, report = train_vq(config, data, out, progress)
    figures = dataclasses.asdict(report) | {"config": dataclasses.asdict(config), "threads": torch.get_num_threads()}
    path = out / config.name
    path.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    _sheet(trained, data, path.with_suffix(".png"))
    _summary(console, report)
    console.print(
        f"{path}.safetensors  sha256 {trained.fingerprint}\nfigures {path}.json, reconstructions {path}.png", soft_wrap=True
    )


def _summary(console: Console, report: Report) -> None:
    console.print(
        f"codes used {report.codes_used} of {report.codes} ({report.codes_used / report.codes:.1%}; "
        f"{report.codes_used_train} on training pictures alone), entropy {report.entropy:.2f} nats"
    )
    for name, part in {"held out": report.heldout, **report.heldout_by_kind, "train": report.train}.items():
        console.print(f"PSNR {name} ({part.pictures}): mean {part.psnr_mean:.2f} dB, pooled {part.psnr_pooled:.2f} dB")


def _sheet(tokenizer: ImageTokenizer, data: PictureSet, path: Path) -> None:
    rows = data.heldout.nonzero().flatten()
    rows = rows[torch.linspace(0, len(rows) - 1, min(SHEET, len(rows))).round().long()]
    originals = data.pictures[rows]
    decoded = tokenizer.decode(tokenizer.encode(originals))
    plot_reconstructions(list(originals.numpy()), list(decoded.numpy()), [data.titles[int(row)] for row in rows], path)


@contextmanager
def _bar(console: Console, steps: int) -> Iterator[Figures]:
    """A live bar with the loss and the time left; plain lines where the output is no terminal."""
    columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}")]
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps, loss=float("nan"))

        def show(step: int, figures: dict[str, float]) -> None:
            bar.update(task, completed=step, loss=figures["loss"])
            if not console.is_terminal and (step % LINES == 0 or step == steps):
                left = figures["seconds"] / step * (steps - step)
                console.print(f"step {step}/{steps}  loss {figures['loss']:.4f}  {left / 60:.1f} min left")

        yield show


if __name__ == "__main__":
    main()
