"""Conversion to dataclasses: each kind of field, what is taken for it and what is refused, and with which words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momafuse.config.convert import convert, key_type, known_keys, plain
from momafuse.errors import UserError


@dataclass(frozen=True)
class Inner:
    size: int
    name: str


@dataclass(frozen=True)
class Wheel:
    spokes: int
    rim: str


@dataclass(frozen=True)
class Sample:
    whole: int
    number: float
    text: str
    maybe: str | None
    switch: bool
    choice: Literal["a", "b"]
    mixed: float | Literal["auto"]
    counts: dict[str, int]
    inners: dict[str, Inner]
    names: list[str]
    pair: tuple[int, float]
    many: tuple[int, ...]
    inner: Inner
    either: Inner | Wheel


GOOD: dict[str, Any] = {
    "whole": 3,
    "number": 0.5,
    "text": "2024_11",
    "maybe": None,
    "switch": True,
    "choice": "a",
    "mixed": "auto",
    "counts": {"x": 1},
    "inners": {"one": {"size": 1, "name": "n"}},
    "names": ["a"],
    "pair": [1, 2.0],
    "many": [1, 2, 3],
    "inner": {"size": 1, "name": "n"},
    "either": {"spokes": 8, "rim": "steel"},
}


def sample(**changes: Any) -> Sample:
    return convert(Sample, GOOD | changes)


def test_every_kind_of_field_goes_through() -> None:
    made = sample()
    assert made.inners == {"one": Inner(1, "n")}
    assert made.either == Wheel(8, "steel")
    assert made.pair == (1, 2.0)
    assert made.many == (1, 2, 3)
    assert convert(Sample, asdict(made)) == made


@dataclass(frozen=True)
class Reserved:
    from_: float
    inner: Inner


@dataclass(frozen=True)
class Listed:
    several: list[Reserved]
    named: dict[str, int]


def test_a_key_that_is_a_word_of_python() -> None:
    raw = {"several": [{"from": 0.5, "inner": {"size": 1, "name": "n"}}], "named": {"as_": 1}}
    made = convert(Listed, raw)
    assert made == Listed([Reserved(0.5, Inner(1, "n"))], {"as_": 1})
    assert plain(made) == raw
    assert plain(sample()) == GOOD
    assert list(known_keys(Reserved)) == ["from", "inner", "inner.size", "inner.name"]
    for name in ("from_", "form"):
        with pytest.raises(UserError, match=rf"^several\[0\]\.{name}: no such key; did you mean several\[0\]\.from\?$"):
            convert(Listed, {"several": [{name: 1}], "named": {}})


def test_whole_floats_are_ints_and_numbers_in_text_are_floats() -> None:
    made = sample(whole=1e3, number="1e-4", mixed=1, pair=[2.0, "3"])
    assert (made.whole, made.number, made.mixed, made.pair) == (1000, 1e-4, 1.0, (2, 3.0))
    assert type(made.whole) is int
    assert type(made.mixed) is float


def test_null_drops_an_entry_of_a_dict() -> None:
    assert sample(counts={"x": None, "y": 2}).counts == {"y": 2}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("whole", 1.5, "whole=1.5: expected a whole number"),
        ("whole", True, "whole=True: expected a whole number"),
        ("whole", "3", "whole=3: expected a whole number"),
        ("whole", float("inf"), "whole=inf: expected a whole number"),
        ("whole", None, "whole=null: expected a whole number"),
        ("number", "abc", "number=abc: expected a number"),
        ("number", float("nan"), "number=nan: expected a number"),
        ("number", False, "number=False: expected a number"),
        ("text", 202411, "text=202411: expected text (write it in quotes)"),
        ("text", None, "text=null: expected text"),
        ("text", "???", "text: no value; write text=..."),
        ("maybe", 5, "maybe=5: expected text or null"),
        ("switch", "yes", "switch=yes: expected true or false"),
        ("switch", 1, "switch=1: expected true or false"),
        ("choice", "c", "choice=c: expected a or b"),
        ("mixed", "aut", "mixed=aut: expected a number or auto"),
        ("mixed", "???", "mixed: no value; write mixed=..."),
        ("counts", {"x": "y"}, "counts.x=y: expected a whole number"),
        ("counts", [1], "counts=[1]: expected a mapping of names, each a whole number"),
        (
            "inners",
            {"one": None, "two": {"size": 1, "nam": ""}},
            "inners.two.nam: no such key; did you mean inners.two.name?",
        ),
        ("names", "a", "names=a: expected a list, each text"),
        ("names", ["a", 1], "names[1]=1: expected text (write it in quotes)"),
        ("pair", [1], "pair=[1]: expected a list of 2 values, each a whole number"),
        ("inner", None, "inner=null: expected a mapping with size, name"),
        ("inner", {"size": 1}, "inner.name: no value; write inner.name=... or give it in a config file"),
        ("inner", {"size": 1, "name": "", "nmae": ""}, "inner.nmae: no such key; did you mean inner.name?"),
        ("either", {"spokes": 1, "rimm": ""}, "either.rimm: no such key; did you mean either.rim?"),
        ("zzzzz", 1, "zzzzz: no such key"),
    ],
)
def test_what_does_not_fit_is_one_line(field: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as raised:
        sample(**{field: value})
    assert str(raised.value) == expected


def test_types_by_dotted_key() -> None:
    assert key_type(Sample, "inner.size") is int
    assert key_type(Sample, "counts.anything") is int
    assert key_type(Sample, "inners.one.name") is str
    assert key_type(Sample, "either.rim") is str
    assert key_type(Sample, "mixed") == float | Literal["auto"]
    with pytest.raises(UserError, match=r"inners\.one\.nane: no such key; did you mean inners\.one\.name\?"):
        key_type(Sample, "inners.one.nane")
    with pytest.raises(UserError, match=r"whole\.more: no such key"):
        key_type(Sample, "whole.more")


@given(st.text())
def test_any_other_key_is_refused(key: str) -> None:
    if key in set(known_keys(Sample)):
        return
    with pytest.raises(UserError):
        convert(Sample, GOOD | {key: 1})
