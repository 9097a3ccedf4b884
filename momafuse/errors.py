"""The one error that a user can cause. Its text is one line: the key, the value and the remedy."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in a config, a file or a command; entry points print it as one line and leave with exit code 2."""
