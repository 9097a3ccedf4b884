"""The study of image tokenizers on a folder of pictures: its page has a line for each source and both sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import study_tokenizers
from PIL import Image


def test_a_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("validation", 2)):
        (tmp_path / "mine" / split).mkdir(parents=True)
        for n in range(count):
            pixels = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((150, 150)).save(tmp_path / "mine" / split / f"{n}.png")
    words = ["starter_vq_v1", "starter_vq_v1", "--data", "picture_folder", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["study", *words, "--set", f"data.sources.pictures.path={tmp_path / 'mine'}"])
    study_tokenizers.main()
    text = (tmp_path / "out" / "image_tokenizers.md").read_text()
    assert "## 64 x 64 pixels, 64 codes" in text
    assert "## 128 x 128 pixels, 256 codes" in text
    assert text.count("| pictures | 2 | ") == 2
    found = json.loads((tmp_path / "out" / "image_tokenizers.json").read_text())
    assert found["64"]["starter_vq_v1"]["heldout"]["pictures"] == 2
    assert found["64"]["starter_vq_v1"]["train"]["pictures"] == 3
    assert (tmp_path / "out" / "image_tokenizers.png").read_bytes().startswith(b"\x89PNG")
