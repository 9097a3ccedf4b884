"""Words that pocketsphinx recognises in a sound, against what was said."""

from __future__ import annotations

import difflib
import re
from typing import Any

import numpy as np

from momafuse.speech.audio import Samples

DIGITS = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))


class Recogniser:
    """pocketsphinx with the English model that comes with it; sounds of 16,000 samples a second."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(samprate=16_000, loglevel="FATAL")

    def words(self, samples: Samples) -> list[str]:
        self._decoder.start_utt()
        self._decoder.process_raw((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return plain(hypothesis.hypstr) if hypothesis else []


def plain(text: str) -> list[str]:
    """Words in lower case; digits are read out."""
    spelt = re.sub(r"\d", lambda digit: f" {DIGITS[digit[0]]} ", text.lower())
    return re.findall(r"[a-z']+", spelt)


def recognised(said: list[str], heard: list[str]) -> set[int]:
    """Places in `said` of the words that were heard, in order (the longest matching blocks)."""
    blocks = difflib.SequenceMatcher(a=said, b=heard, autojunk=False).get_matching_blocks()
    return {place for block in blocks for place in range(block.a, block.a + block.size)}
