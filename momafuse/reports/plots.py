"""The pictures at the end of a run: losses per modality, what the experts chose, what the image tokenizer keeps.

All write a PNG and return nothing; they use matplotlib without pyplot, so they touch no display and no global state.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from momafuse.reports.metrics import Row, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Chosen = dict[str, NDArray[np.floating[Any]]]
"""By group: (layers, 3), shares of rows chosen by 0, 1, 2+ experts."""

COLOURS = ("#2a6f97", "#d1603d", "#5b8c5a", "#7b5ea7", "#b08a2e")  # one per modality
GREY = "#6b6b6b"
CHOSEN_COLOURS = ("#d9d9d9", "#7fb3d5", "#1b4f72")
CHOSEN_NAMES = ("no expert", "1 expert", "2 or more")
DPI = 150
SMOOTHING = 0.06  # of the steps: the window of the drawn training loss


def new_figure(width: float, height: float) -> Figure:
    """In inches. matplotlib takes a third of a second to come, which a run has at its end rather than at its start."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_losses(metrics: Path, out: Path, unigram: Mapping[str, float]) -> None:
    """One panel per modality from a metrics.jsonl: training loss, held-out loss, and the loss of a frequency table.

    `unigram`: nats by modality, keys `MODALITY` or `unigram/MODALITY`.
    """
    rows = read_metrics(metrics)
    frequencies = {key.rpartition("/")[2]: value for key, value in unigram.items()}
    names = sorted({key.rpartition("loss_")[2] for row in rows for key in row if "/loss_" in key}, reverse=True)
    figure = new_figure(5.2 * len(names), 3.8)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name, colour in zip(panels, names, COLOURS, strict=False):
        _loss_panel(panel, rows, name, colour, frequencies.get(name))
    panels[0].set_ylabel("cross-entropy, nats per token")
    figure.savefig(out, dpi=DPI)


def plot_series(metrics: Path, out: Path) -> None:
    """One panel for each loss and each held-out figure of a metrics.jsonl: `train/loss_NAME`, `eval/NAME`."""
    rows = read_metrics(metrics)
    keys = list(dict.fromkeys(key for row in rows for key in row if key.startswith(("train/loss_", "eval/"))))
    across = min(4, len(keys))
    figure = new_figure(3.4 * across, 2.6 * math.ceil(len(keys) / across))
    panels = figure.subplots(math.ceil(len(keys) / across), across, squeeze=False).flatten()
    for panel, key in zip(panels, keys, strict=False):
        steps, values = _series(rows, key)
        trained = key.startswith("train/")
        if trained:
            panel.plot(steps, values, color=COLOURS[0], alpha=0.25, linewidth=0.8)
            panel.plot(steps, _smooth(values), color=COLOURS[0], linewidth=1.6)
            panel.set_yscale("log" if (values > 0).any() else "linear")
        else:
            panel.plot(steps, values, color=COLOURS[1], marker="o", markersize=3, linewidth=1)
        name = key.rpartition("/")[2].removeprefix("loss_").replace("_", " ")
        panel.set_title(f"{name}, {'training' if trained else 'held out'}", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(keys) :]:
        panel.set_axis_off()
    figure.savefig(out, dpi=DPI)


def _loss_panel(panel: Axes, rows: Sequence[Row], name: str, colour: str, frequency: float | None) -> None:
    steps, losses = _series(rows, f"train/loss_{name}")
    panel.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
    panel.plot(steps, _smooth(losses), color=colour, linewidth=1.8, label="training (smoothed)")
    held_out_steps, held_out = _series(rows, f"eval/loss_{name}")
    if len(held_out):
        label = f"held out: {held_out[-1]:.2f} at the end"
        panel.plot(held_out_steps, held_out, color="black", marker="o", markersize=4, linewidth=1, label=label)
    if frequency is not None:
        label = f"frequencies alone: {frequency:.2f}"
        panel.axhline(frequency, color=GREY, linestyle="--", linewidth=1.2, label=label)
    panel.set_title(f"{name} tokens")
    panel.set_xlabel("step")
    panel.locator_params("x", integer=True)
    panel.margins(y=0.12)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9)


def plot_experts(chosen: Chosen, out: Path) -> None:
    """A panel per entry: the shares of rows chosen by 0, 1 and more experts, layer by layer."""
    heights = [0.34 * len(shares) + 1.0 for shares in chosen.values()]
    figure = new_figure(7, sum(heights) + 0.4)
    panels = figure.subplots(len(chosen), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (name, shares) in zip(panels, chosen.items(), strict=True):
        _chosen_panel(panel, name, shares)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=3, frameon=False, title="rows chosen by")
    figure.savefig(out, dpi=DPI)


def _chosen_panel(panel: Axes, name: str, chosen: NDArray[np.floating[Any]]) -> None:
    layers = len(chosen)
    begin = np.zeros(layers)
    for kind, (colour, label) in enumerate(zip(CHOSEN_COLOURS, CHOSEN_NAMES, strict=True)):
        share = 100 * chosen[:, kind]
        panel.barh(range(layers), share, left=begin, color=colour, label=label, height=0.8)
        for layer in range(layers):
            if share[layer] >= 6:
                ink = "white" if kind == 2 else "black"
                middle = begin[layer] + share[layer] / 2
                panel.text(middle, layer, f"{share[layer]:.0f} %", ha="center", va="center", color=ink, fontsize=8)
        begin = begin + share
    panel.set_title(f"{name}: share of rows by the number of experts that chose them", fontsize=10)
    panel.set_xlim(0, 100)
    panel.set_ylim(layers - 0.5, -0.5)
    panel.set_xticks([])
    panel.set_yticks(range(layers), [f"layer {i}" for i in range(layers)])
    panel.tick_params(length=0, labelsize=8)
    panel.spines[:].set_visible(False)


def plot_reconstructions(
    originals: Sequence[NDArray[Any]], reconstructions: Sequence[NDArray[Any]], captions: Sequence[str], out: Path
) -> None:
    """A sheet of pairs (item, reconstruction) with captions, at least one: pictures uint8 (3, H, W), or what has rows and
    columns of numbers in [0, 1] (a spectrogram; the lowest row comes first), drawn dark."""
    count = len(originals)
    columns = min(count, 4 if count <= 16 else 6)
    lines = math.ceil(count / columns)
    figure = new_figure(2.7 * columns, 1.65 * lines + 0.35)
    figure.suptitle("left: the original, right: what its tokens keep", fontsize=10)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for panel, original, reconstruction, caption in zip(panels, originals, reconstructions, captions, strict=False):
        left, right = pixels_of(original), pixels_of(reconstruction)
        gap = np.full((len(left), max(2, left.shape[1] // 32), 3), 255, dtype=np.uint8)
        aspect = "equal" if original.ndim == 3 else "auto"  # sounds have any length
        panel.imshow(np.concatenate([left, gap, right], axis=1), interpolation="nearest", aspect=aspect)
        text = textwrap.shorten(caption, 48, placeholder=" …")
        text = text.encode("utf-8", "replace").decode()  # a file's name may be no text, and hold a $ that is no formula
        panel.set_xlabel(text, fontsize=8, labelpad=3, parse_math=False)
    figure.savefig(out, dpi=DPI)


def pixels_of(item: NDArray[Any]) -> NDArray[np.uint8]:
    """-> (H, W, 3)."""
    if item.ndim == 3:
        return item.transpose(1, 2, 0)
    grey: NDArray[np.uint8] = np.repeat((255 * (1 - item[::-1, :, None])).astype(np.uint8), 3, axis=2)
    return grey


def _series(rows: Sequence[Row], key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of the rows that have `key`."""
    pairs = [(float(row["step"]), float(row[key])) for row in rows if key in row]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a centred window, which is cut off at both ends."""
    reach = int(SMOOTHING * len(values) / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    begin, end = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    means: NDArray[np.float64] = (sums[end] - sums[begin]) / (end - begin)
    return means
