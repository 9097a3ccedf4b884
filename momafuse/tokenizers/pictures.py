"""The image tokenizer as a task: pictures of any source, what is said of it on the way, and what lies beside its weights.

OUT/NAME.json (figures), .png (held-out pictures and what is left of them) and, where there are any, _rejects.txt: pictures that
cannot be used, each with the reason.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from momafuse.config.tokenizers import TokenizerTraining
from momafuse.errors import UserError
from momafuse.reports.plots import plot_reconstructions
from momafuse.tokenizers.reading import Pictures, read_pictures
from momafuse.tokenizers.task import Say, Task
from momafuse.vision.architectures import AnyArchitecture, build
from momafuse.vision.config import VQConfig
from momafuse.vision.discriminator import PatchDiscriminator
from momafuse.vision.losses import psnr, squared_error
from momafuse.vision.perceptual import LEAST_SIDE, NETWORK
from momafuse.vision.pictures import PictureSet
from momafuse.vision.report import Report, measure
from momafuse.vision.tokenizer import ImageTokenizer, save_tokenizer
from momafuse.vision.training import TrainingPictures, losses_of
from momafuse.vq.autoencoder import VQAutoencoder
from momafuse.vq.codes import CodeTable
from momafuse.vq.config import DiscriminatorConfig
from momafuse.vq.order import Order

SHEET = 48  # held-out pictures on the sheet, spread over all kinds
JUDGED = 256  # held-out pictures that are judged on the way
PIXELS = 20_000 * 64 * 64  # of the training pictures, and of the others, that the finished tokenizer is measured on, at most


class PictureTask(Task[VQAutoencoder]):
    item: ClassVar[str] = "picture"

    config: VQConfig
    architecture: AnyArchitecture

    def __init__(self, config: VQConfig, job: TokenizerTraining) -> None:
        """Reads all pictures. Raises UserError for too few."""
        self.config, self.architecture = config, config.architecture
        build(config.architecture)  # what cannot be is said before anything is read
        losses_of(config)
        found = read_pictures(job.data.sources, config.architecture.image_size, larger=config.crop_share > 0)
        self._found, self.data, self.rejects = found, found.fingerprint, found.rejects
        self._train = [number for number, heldout in enumerate(found.heldout) if not heldout]
        self._heldout = [number for number, heldout in enumerate(found.heldout) if heldout]
        if not self._train or not self._heldout:
            sources = ", ".join(job.data.sources)
            missing = "to train on" if not self._train else "held out"
            raise UserError(f"data.sources={{{sources}}}: none of {len(found.pictures)} pictures is {missing}; give more")
        self.reads = f"data.sources={{{', '.join(job.data.sources)}}}"
        counts = [sum(found.kinds[n] == name for n in self._train) for name in job.data.sources]
        weights = [source.weight for source in job.data.sources.values()]
        given = [(count, weight) for count, weight in zip(counts, weights, strict=True) if count]
        order = Order(job.run.seed, *zip(*given, strict=True))
        self._pictures = TrainingPictures(config, job.run.seed, order, _Chosen(found.pictures, self._train), self._larger())
        self.summary = f"{len(self._train)} pictures to train on, {len(self._heldout)} held out"

    def _larger(self) -> _Chosen | None:
        return None if self._found.larger is None else _Chosen(self._found.larger, self._train)

    def model(self) -> VQAutoencoder:
        return build(self.architecture)

    def batch(self, numbers: Sequence[int]) -> Tensor:
        return self._pictures.batch(numbers)

    def losses(self, device: torch.device) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        return losses_of(self.config, device)

    def discriminator(self) -> tuple[nn.Module, DiscriminatorConfig] | None:
        how = self.config.discriminator
        return None if how is None else (PatchDiscriminator(how), how)

    def save(self, path: Path, model: VQAutoencoder, codes: CodeTable) -> None:
        save_tokenizer(path, self.architecture, model, codes)

    def judged(self, weights: Path, device: torch.device) -> dict[str, float]:
        tokenizer, pictures = _loaded(weights, device), self._found.pictures.of(_spread(self._heldout, JUDGED))
        codes = tokenizer.encode(pictures)
        error = squared_error(tokenizer.decode(codes), pictures)
        used = int((torch.bincount(codes.flatten()) > 0).sum()) / min(tokenizer.codes, codes.numel())
        return {"eval/psnr_mean": float(psnr(error).mean()), "eval/psnr_pooled": float(psnr(error.mean())), "eval/used": used}

    def sheet(self, weights: Path, picture: Path, device: torch.device) -> None:
        tokenizer, numbers = _loaded(weights, device), _spread(self._heldout, SHEET)
        originals = self._found.pictures.of(numbers)
        decoded = tokenizer.decode(tokenizer.encode(originals))
        titles = [self._found.titles[number] for number in numbers]
        plot_reconstructions(list(originals.numpy()), list(decoded.numpy()), titles, picture)

    def finish(self, weights: Path, more: Mapping[str, object], device: torch.device, say: Say) -> dict[str, object]:
        tokenizer = _loaded(weights, device)
        report = measure(tokenizer, self._measured())
        figures = dataclasses.asdict(report) | {"sha256": tokenizer.fingerprint} | dict(more)
        beside = weights.with_name(f"{self.config.name}.json")
        beside.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        sheet = weights.with_name(f"{self.config.name}.png")
        self.sheet(weights, sheet, device)
        for line in _summary(report):
            say(line)
        say(f"{weights}  sha256 {tokenizer.fingerprint}")
        say(f"figures {beside}, reconstructions {sheet}")
        return figures

    def _measured(self) -> PictureSet:
        f = self._found
        most = max(1, PIXELS // f.pictures.size**2)
        numbers = sorted([*_spread(self._train, most), *_spread(self._heldout, most)])
        return PictureSet(
            pictures=f.pictures.of(numbers),
            titles=[f.titles[n] for n in numbers],
            kinds=[f.kinds[n] for n in numbers],
            heldout=torch.tensor([f.heldout[n] for n in numbers]),
        )


class _Chosen:
    """Some of the pictures, by their place among these."""

    def __init__(self, pictures: Pictures, numbers: Sequence[int]) -> None:
        self.size, self._pictures, self._numbers = pictures.size, pictures, numbers

    def __getitem__(self, place: int) -> Tensor:
        return self._pictures[self._numbers[place]]


def _loaded(weights: Path, device: torch.device) -> ImageTokenizer:
    return ImageTokenizer.load(str(weights), str(device))


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    places = torch.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().long().tolist()
    return [numbers[place] for place in places]


def _summary(report: Report) -> list[str]:
    lines = [
        f"codes used {report.codes_used} of {report.codes} ({report.codes_used / report.codes:.1%}; "
        f"{report.codes_used_train} on training pictures alone), perplexity {report.perplexity:.0f}"
    ]
    by_kind = [(f"held out, {kind}", part) for kind, part in report.heldout_by_kind.items()]
    for name, part in [("held out", report.heldout), *by_kind, ("train", report.train)]:
        more = {"SSIM": part.ssim, f"perceptual ({NETWORK})": part.perceptual}
        figures = "".join(f", {what} {value:.3f}" for what, value in more.items() if value is not None)
        lines.append(f"{name} ({part.pictures}): PSNR mean {part.psnr_mean:.2f} dB, pooled {part.psnr_pooled:.2f} dB{figures}")
    if report.heldout.perceptual is None:
        lines.append(f"no perceptual distances: they need {LEAST_SIDE} pixels a side and pip install 'momafuse[perceptual]'")
    elif report.kernel_distance is not None:
        lines.append(f"held out and what is left of it, as sets: kernel distance ({NETWORK}) {report.kernel_distance:.4f}")
    return lines
