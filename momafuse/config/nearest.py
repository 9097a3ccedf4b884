"""The nearest real name for a misspelt one, for error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None where nothing is alike."""
    found = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest choice, or nothing."""
    found = nearest(name, choices)
    return f"; did you mean {found}?" if found else ""


def nearest_key(key: str, keys: Iterable[str]) -> str | None:
    """The dotted key most like `key`: the same name in another place, or a name like it in the same place."""
    keys = list(keys)
    parent, _, leaf = key.rpartition(".")
    elsewhere = [k for k in keys if k.rpartition(".")[2] == leaf]
    if elsewhere:
        return nearest(key, elsewhere) or elsewhere[0]
    siblings = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == parent]
    found = nearest(leaf, siblings)
    if found:
        return f"{parent}.{found}" if parent else found
    return nearest(key, keys)
