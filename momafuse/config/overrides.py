"""Command-line overrides (`size=90m`, `+experiment=X`, `model.dim=64`): checked by the schema, made safe for Hydra.

Hydra's grammar reads values before it knows what type is asked (`run.name=2024_11` becomes 202411), merges dicts where
one is meant to replace another (`model.experts={text: 2, image: 2}`) and reports unknown keys in four lines. So keys
are looked up here first, text is quoted, and dicts of experts replace. Does not compose (compose.py).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin

from momafuse.config.convert import key_type, known_keys
from momafuse.config.nearest import did_you_mean, nearest
from momafuse.errors import UserError

REPLACED = ("model.experts",)  # dicts that stand for one choice: given as a whole they replace, they do not merge
VERBATIM = ("prompt",)  # what a person says: quotes, `null` and `${` in it are text

Groups = Mapping[str, Sequence[str]]  # group -> its options


@dataclass(frozen=True)
class Override:
    """One word of the command line: `prefix key = text`; `text` is None for a bare deletion (`~key`)."""

    prefix: str  # "", "+", "++" or "~"
    key: str
    text: str | None
    is_group: bool

    def __str__(self) -> str:
        return self.prefix + self.key + ("" if self.text is None else f"={self.text}")


def parse(word: str, schema: type, groups: Groups) -> Override:
    """One override as typed; UserError where it is no override or its key is neither a group nor in `schema`."""
    match = re.fullmatch(r"(\+\+|\+|~)?([^=\s]+?)(?:=(.*))?", word, re.DOTALL)
    if match is None or (match[3] is None and match[1] != "~"):
        raise UserError(f"cannot read {word!r}: write KEY=VALUE, e.g. run.seed=1 or size=90m")
    prefix, key, text = match[1] or "", match[2], match[3]
    is_group = key in groups
    if is_group and text is not None and (text == "" or text.startswith("{")):
        raise UserError(f"{word}: {key} takes the name of a file: {', '.join(groups[key])}")
    if not is_group and not key.startswith("hydra."):
        _check_key(schema, key, groups)
    return Override(prefix, key, text, is_group)


def refuse_two_files(overrides: Sequence[Override]) -> None:
    """`size=90m size=nano`: UserError, since the one that counts would be a guess."""
    chosen: dict[str, str | None] = {}
    for o in overrides:
        if o.is_group and chosen.setdefault(o.key, o.text) != o.text:
            raise UserError(f"{o.key}={chosen[o.key]} and {o.key}={o.text} contradict each other; keep one")


def sweep(overrides: Sequence[Override], schema: type) -> list[list[Override]]:
    """The jobs of a multirun: the product of all values separated by commas (or of `range`, `choice`, `glob`)."""
    choices = []
    for override in overrides:
        values = [override.text] if override.text is None else _swept(override, schema)
        choices.append([replace(override, text=value) for value in values])
    return [list(job) for job in itertools.product(*choices)]


def for_hydra(overrides: Sequence[Override], schema: type) -> list[str]:
    """The words that Hydra gets. Keys are known to be in the schema, so that each may be set, there already or not."""
    words = []
    for o in overrides:
        if o.is_group or o.prefix == "~" or o.key.startswith("hydra."):
            words.append(str(o))
            continue
        if o.key in VERBATIM:
            continue
        text = _quoted(o.text or "", key_type(schema, o.key))
        if o.key in REPLACED and text.startswith("{"):
            words += [f"++{o.key}=null"]
        words.append(f"++{o.key}={text}")
    return words


def verbatim(overrides: Sequence[Override]) -> dict[str, str]:
    """What Hydra does not get: neither its grammar nor OmegaConf's can carry every text."""
    return {o.key: o.text or "" for o in overrides if o.key in VERBATIM}


def split_commas(text: str) -> list[str]:
    """Parts between the commas that stand outside of quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[i - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        depth += 0 if quote else (char in "[{(") - (char in ")}]")
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def quote(text: str) -> str:
    """`text` in quotes, so that Hydra's grammar reads it as it is (interpolations still count)."""
    escaped = re.sub(r"(\\*)'", lambda m: m[1] * 2 + "\\'", text)  # backslashes count only before a quote
    tail = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * tail}'"


def _check_key(schema: type, key: str, groups: Groups) -> None:
    tops = [*groups, *(k for k in known_keys(schema) if "." not in k)]
    elsewhere = [k for k in known_keys(schema) if k.endswith(f".{key}")]
    if "." not in key and key not in tops and not elsewhere and nearest(key, tops):
        raise UserError(f"{key}: no such key or group{did_you_mean(key, tops)}")
    key_type(schema, key)


def _swept(override: Override, schema: type) -> list[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    text = override.text or ""
    if not re.match(r"\s*(range|choice|glob|interval|sort|shuffle|tag)\s*\(", text):
        return [part.strip() for part in split_commas(text)]
    try:
        parsed = OverridesParser.create().parse_override(f"{override.key}={text}")
        if parsed.is_discrete_sweep():
            return list(parsed.sweep_string_iterator())
    except HydraException as error:
        raise UserError(f"cannot read {override}: {error}") from error
    raise UserError(f"{override}: a sweep needs values, e.g. {override.key}=1,2 or {override.key}=range(1,4)")


def _is_text(kind: Any) -> bool:
    members = get_args(kind) if get_origin(kind) in (Union, type(int | None)) else (kind,)
    return all(m in (str, type(None)) or get_origin(m) is Literal for m in members)


def _quoted(text: str, kind: Any) -> str:
    """`text` so that Hydra reads text as text, where text is asked; other values as they are."""
    if _is_text(kind):
        optional = type(None) in get_args(kind)
        return text if _has_quotes(text) or (optional and text == "null") else quote(text)
    if kind in (list[str], tuple[str, ...]) and text.startswith("[") and text.endswith("]"):
        parts = [part.strip() for part in split_commas(text[1:-1]) if part.strip()]
        return "[" + ",".join(part if _has_quotes(part) else quote(part) for part in parts) + "]"
    return text


def _has_quotes(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
