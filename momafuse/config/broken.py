"""How a broken rule is said: one line with the key, the value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping

from momafuse.errors import UserError


def fail(key: str, value: object, problem: str) -> None:
    """Raises the UserError of a broken rule."""
    raise UserError(f"{key}={value}: {problem}")


def signs(above_zero: Mapping[str, float], zero_or_above: Mapping[str, float]) -> None:
    """Raises UserError for the first key whose value is of the other sign."""
    for key, value in above_zero.items():
        if value <= 0:
            fail(key, value, "must be greater than 0")
    for key, value in zero_or_above.items():
        if value < 0:
            fail(key, value, "must not be negative")
