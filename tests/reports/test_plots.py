"""The plots draw what they are given; how they look was looked at (docs/images)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from momafuse.reports.plots import plot_experts, plot_losses, plot_reconstructions


def ink(path: Path) -> float:
    """Share of pixels that are not white."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return float((np.asarray(image.convert("L")) < 250).mean())


def metrics(path: Path, steps: int) -> Path:
    rows = [{"step": s, "train/loss_text": 8 - s / 50, "train/loss_image": 9 - s / 50} for s in range(1, steps + 1)]
    rows.append({"step": steps, "eval/loss_text": 7.0, "eval/loss_image": 8.0})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_losses(tmp_path: Path, steps: int) -> None:
    path = metrics(tmp_path / "metrics.jsonl", steps)
    plot_losses(path, tmp_path / "all.png", {"unigram/text": 7.5, "unigram/image": 8.5})
    plot_losses(path, tmp_path / "without.png", {})
    assert ink(tmp_path / "all.png") > ink(tmp_path / "without.png") > 0.01


def test_losses_before_the_first_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "train/loss_text": 8.0, "train/loss_image": float("nan")}) + "\n")
    plot_losses(path, tmp_path / "loss.png", {"text": 7.5})
    assert ink(tmp_path / "loss.png") > 0.01


@pytest.mark.parametrize("layers", [3, 8])
def test_experts_one_panel_per_group(tmp_path: Path, layers: int) -> None:
    group = np.tile([0.2, 0.5, 0.3], (layers, 1))
    plot_experts({"text": group}, tmp_path / "one.png")
    plot_experts({"text": group, "image": group}, tmp_path / "two.png")
    assert ink(tmp_path / "one.png") > 0.1
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width == one.width
        assert 1.4 * one.height < two.height < 2 * one.height


def test_experts_that_took_nothing(tmp_path: Path) -> None:
    plot_experts({"text": np.tile([1.0, 0, 0], (2, 1))}, tmp_path / "none.png")
    assert ink(tmp_path / "none.png") > 0.05


@pytest.mark.parametrize("count", [1, 5, 16, 48])
def test_reconstructions(tmp_path: Path, count: int) -> None:
    originals = np.full((count, 3, 16, 16), 255, dtype=np.uint8)
    reconstructions = np.zeros((count, 3, 16, 16), dtype=np.uint8)
    plot_reconstructions(originals, reconstructions, ["a $caption$ of_some ^ length " * 4] * count, tmp_path / "sheet.png")
    assert 0.15 < ink(tmp_path / "sheet.png") < 0.5  # a black half beside each white one
