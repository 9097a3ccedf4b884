"""momafuse: sparse early-fusion pretraining on one stream of text and image tokens."""

from __future__ import annotations

__version__ = "0.1.0"
