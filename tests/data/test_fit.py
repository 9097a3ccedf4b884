"""How well a tokenizer fits: the figure is that of the items, the worst come first, and texts are passed over."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from momafuse.data.fit import WORST, fits
from momafuse.vision.codec import ImageCodec, decode_picture
from tests.data import corpora


def test_the_figure_is_the_psnr_of_each_picture(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    corpora.write_pictures(folder, 12)
    corpora.write_texts(tmp_path / "texts.jsonl", 5)
    sources = {
        "pictures": corpora.source("captioned_folder", folder, 2),
        "texts": corpora.source("text_files", tmp_path / "texts.jsonl"),
    }
    weights = corpora.write_image_tokenizer(tmp_path / "tiny.safetensors")
    config = corpora.config(sources)
    config.__dict__["tokenizer"] = {"text": corpora.TEXT, "image": weights}
    (found,) = fits(config)
    assert (found.source, found.modality, found.unit) == ("pictures", "image", "dB PSNR")
    codec = ImageCodec.load(weights)
    expected = []
    for path in (path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".webp")):
        picture = decode_picture(path.read_bytes(), 16)
        left = codec.decode(codec.encode([picture])[0])
        squares = [(float(a) - float(b)) ** 2 / 255**2 for a, b in zip(picture.flatten(), left.flatten(), strict=True)]
        expected.append(-10 * math.log10(sum(squares) / len(squares)))
    assert sorted(found.values) == pytest.approx(sorted(expected))
    assert found.poor == (np.mean(expected) < 20)
    assert [float(label.partition(":")[0]) for label, *_ in found.worst] == [round(x, 1) for x in sorted(expected)[:WORST]]
