"""Which tokenizers a config chooses: what a corpus remembers of them and is compared with."""

from __future__ import annotations

from momafuse.config.schema import TokenizerConfig
from momafuse.tokens.text import TextTokenizer
from momafuse.vision.tokenizer import ImageTokenizer


def tokenizer_fingerprints(config: TokenizerConfig) -> dict[str, tuple[str, str]]:
    """Name and fingerprint of the tokenizers that a config chooses, by modality."""
    return {
        "text": (config.text, TextTokenizer.load(config.text).fingerprint),
        "image": (config.image, ImageTokenizer.load(config.image).fingerprint),
    }
