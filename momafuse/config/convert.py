"""Plain containers (what YAML holds) to frozen dataclasses, and the keys that a dataclass has.

Walks the fields and their type hints: nested dataclasses, `Literal`, unions, `dict[str, X]`, `list[X]`,
`tuple[X, ...]`, `str`, `bool`, `int`, `float`. No value is guessed: a number where text is asked is an error, since
YAML has already lost how it was written (2024_11 reads as 202411). Whole floats pass for `int`, numbers in text (YAML
1.1 reads `1e-4` so) for `float`. A `null` in a dict of non-optional values drops the entry, so that one file can undo
what another one set. A field that has a default may be left out; a key that is a word of Python (`from`) is a field with an
underscore behind it.

Knows nothing of Hydra (compose.py) nor of what fields mean to one another (validate.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from keyword import iskeyword
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from momafuse.config.nearest import nearest_key
from momafuse.errors import UserError

UNUSED = "unused"  # of a dataclass: keys that files may have and this program has no use for
MISSING = "???"  # what Hydra's YAML writes for a value that the user must give

T = TypeVar("T")


def field_types(schema: Any) -> dict[str, Any]:
    """Key -> type hint of a dataclass, in order."""
    hints = get_type_hints(schema)
    return {f.name.removesuffix("_"): hints[f.name] for f in fields(schema)}


def plain(value: Any) -> Any:
    """The containers that `convert` makes `value` of."""
    if is_dataclass(value):
        return {f.name.removesuffix("_"): plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def convert(schema: type[T], raw: Any, *, key: str = "") -> T:
    """`schema` filled from the mapping `raw`; raises UserError for an unknown, missing or ill-typed key under `key`."""
    result: T = _dataclass(schema, raw, key, schema)
    return result


def key_type(schema: type, key: str) -> Any:
    """The type hint at a dotted key; raises UserError with the nearest key where the schema has no such key."""
    kinds: list[Any] = [schema]
    for depth, part in enumerate(parts := key.split(".")):
        inner = [child for kind in kinds for child in _children(kind, part)]
        if not inner:
            parent = ".".join(parts[:depth])
            raise unknown_key(schema, key, [f"{parent}.{name}".lstrip(".") for kind in kinds for name in _names(kind)])
        kinds = [member for child in inner for member in _members(child)]
    return Union[tuple(kinds)] if len(kinds) > 1 else kinds[0]  # noqa: UP007 -- made at run time


def known_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a schema, inner nodes too; free keys of dicts are not listed."""
    for kind in _members(schema):
        if is_dataclass(kind):
            for name, child in field_types(kind).items():
                yield prefix + name
                yield from known_keys(child, f"{prefix}{name}.")


def unknown_key(schema: type, key: str, siblings: Sequence[str]) -> UserError:
    """The error for a key that is not there; `siblings` are the keys that are, where it was looked for."""
    found = nearest_key(key, [*siblings, *known_keys(schema)])
    return UserError(f"{key}: no such key" + (f"; did you mean {found}?" if found else ""))


def describe_type(kind: Any) -> str:
    """What a user may write for a type hint, in words."""
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}
    if kind in names:
        return names[kind]
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(str(a) for a in get_args(kind))
    if origin in (Union, UnionType):
        return " or ".join(describe_type(a) for a in get_args(kind))
    if origin in (list, tuple):
        length = "" if origin is list or Ellipsis in get_args(kind) else f" of {len(get_args(kind))} values"
        return f"a list{length}, each {describe_type(get_args(kind)[0])}"
    if origin is dict:
        return f"a mapping of names, each {describe_type(get_args(kind)[1])}"
    return "a mapping" + (f" with {', '.join(field_types(kind))}" if is_dataclass(kind) else "")


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _children(kind: Any, part: str) -> list[Any]:
    found = []
    for member in _members(kind):
        if is_dataclass(member) and part in (types := field_types(member)):
            found.append(types[part])
        elif get_origin(member) is dict:
            found.append(get_args(member)[1])
    return found


def _names(kind: Any) -> list[str]:
    return list(field_types(kind)) if is_dataclass(kind) else []


def _mismatch(kind: Any, raw: Any, key: str) -> UserError:
    if raw == MISSING:
        return UserError(f"{key}: no value; write {key}=...")
    note = " (write it in quotes)" if kind is str and isinstance(raw, int | float) else ""
    written = "null" if raw is None else raw
    return UserError(f"{key}={written}: expected {describe_type(kind)}{note}")


def _value(kind: Any, raw: Any, key: str, root: type) -> Any:
    if isinstance(raw, str) and raw == MISSING:
        raise _mismatch(kind, raw, key)
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _union(kind, raw, key, root)
    if origin is Literal:
        if any(raw == a and type(raw) is type(a) for a in get_args(kind)):
            return raw
    elif origin is dict and isinstance(raw, Mapping):
        inner = get_args(kind)[1]
        drop_null = NoneType not in _members(inner)
        return {str(k): _value(inner, v, f"{key}.{k}", root) for k, v in raw.items() if not (v is None and drop_null)}
    elif origin in (list, tuple) and isinstance(raw, list | tuple):
        return _sequence(kind, raw, key, root)
    elif is_dataclass(kind):
        return _dataclass(kind, raw, key, root)
    else:
        found = _scalar(kind, raw)
        if found is not None or (kind is NoneType and raw is None):
            return found
    raise _mismatch(kind, raw, key)


def _scalar(kind: Any, raw: Any) -> Any:
    """`raw` as a `kind`, or None where it is not one."""
    number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if kind in (str, bool):
        return raw if isinstance(raw, kind) else None
    if kind is int and number and math.isfinite(raw) and raw == int(raw):
        return int(raw)
    if kind is float and (number or isinstance(raw, str)):
        try:
            value = float(raw)
        except ValueError:
            return None
        return value if math.isfinite(value) else None
    return None


def _union(kind: Any, raw: Any, key: str, root: type) -> Any:
    members = get_args(kind)
    if raw is None and NoneType in members:
        return None
    classes = [m for m in members if is_dataclass(m)]
    if classes and isinstance(raw, Mapping):
        # the member that knows most of the keys: its errors are the ones that help
        best = max(classes, key=lambda c: len(set(field_types(c)) & set(raw)))
        return _dataclass(best, raw, key, root)
    for member in members:
        try:
            return _value(member, raw, key, root)
        except UserError:
            continue
    raise _mismatch(kind, raw, key)


def _sequence(kind: Any, raw: list[Any] | tuple[Any, ...], key: str, root: type) -> Any:
    args = get_args(kind)
    if get_origin(kind) is list or Ellipsis in args:
        kinds = [args[0]] * len(raw)
    elif len(args) == len(raw):
        kinds = list(args)
    else:
        raise _mismatch(kind, raw, key)
    values = [_value(k, v, f"{key}[{i}]", root) for i, (k, v) in enumerate(zip(kinds, raw, strict=True))]
    return values if get_origin(kind) is list else tuple(values)


def _dataclass(kind: Any, raw: Any, key: str, root: type) -> Any:
    if not isinstance(raw, Mapping):
        raise _mismatch(kind, raw, key or "config")
    prefix = f"{key}." if key else ""
    types = field_types(kind)
    for name in raw:
        if name not in types and name not in getattr(kind, UNUSED, ()):
            raise unknown_key(root, f"{prefix}{name}", [prefix + n for n in types])
    values = {name: _value(child, raw[name], prefix + name, root) for name, child in types.items() if name in raw}
    optional = {f.name for f in fields(kind) if f.default is not NO_DEFAULT or f.default_factory is not NO_DEFAULT}
    for name in types:
        if name not in values and name not in optional:
            raise UserError(f"{prefix}{name}: no value; write {prefix}{name}=... or give it in a config file")
    return kind(**{f"{key}_" if iskeyword(key) else key: value for key, value in values.items()})
