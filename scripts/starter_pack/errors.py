"""The one error a user of the build sees: a single line that names the cause and the remedy."""

from __future__ import annotations


class PackError(ValueError):
    """Bad input or a missing download; the message is one clear line."""
