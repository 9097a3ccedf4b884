"""Pairs alone are dealt as documents of any kind are."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.data.filling import Filled, fill_any, fill_pairs
from momafuse.data.mixture import Tape
from momafuse.tokens.vocabulary import Vocabulary
from tests.data.toy import Segments, make_split


def both(lengths: list[int], block: int, rooms: list[tuple[int, int]], mean: int, seed: int = 0) -> tuple[Filled, Filled]:
    """Pairs with so much text, the picture first or last, dealt in both ways to rooms of text and pictures."""
    rng, vocabulary = np.random.default_rng(seed), Vocabulary.build(20, image=(9, block))
    documents: list[Segments] = [["image", n] if rng.random() < 0.5 else [n, "image"] for n in lengths]
    split = make_split({"pairs": documents}, vocabulary)
    tape = Tape(split, split.sources[0], 16, 1, seed)
    units = tape.segment(0, sum(n for _, n in rooms))
    table, items = np.array(rooms, np.int64).reshape(-1, 2) * (1, block), split.items_in(units.document)
    return (
        fill_any(split, units, items, 1, table.copy(), np.array([mean, 0])),
        fill_pairs(split, units, items.rows[:, 0], 1, table.copy(), mean),
    )


def assert_same(a: Filled, b: Filled) -> None:
    for field in fields(Filled):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert (x.dtype, x.shape, x.tolist()) == (y.dtype, y.shape, y.tolist()), field.name


@settings(max_examples=200)
@given(st.data())
def test_pairs_are_dealt_as_any_documents_are(data: st.DataObject) -> None:
    """Rooms that are alike or not, from some that hold no text but frames to some that hold all; also with none of pictures."""
    longest = data.draw(st.sampled_from([1, 3, 9, 40]))
    lengths = data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=120))
    each = data.draw(st.integers(1, 5))
    room = each * 4 + data.draw(st.integers(0, 2 * longest * each))
    if data.draw(st.booleans()):
        rooms = [(room, each)] * (len(lengths) // each)
    else:
        wanted = data.draw(st.lists(st.integers(0, each), max_size=40))
        rooms = [(room + data.draw(st.integers(0, 3)), n) for n in wanted if n <= each]
        rooms = rooms[: int(np.searchsorted(np.cumsum([n for _, n in rooms]), len(lengths), side="right"))]
    assert_same(*both(lengths, data.draw(st.sampled_from([1, 4])), rooms, data.draw(st.integers(0, 30)), 3))


@pytest.mark.parametrize("mean", [2, 10, 30])
def test_more_than_may_wait_are_dealt_alike(mean: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.choice([2, 60], 600, p=[0.4, 0.6]).tolist()
    assert_same(*both(lengths, 4, [(70, 3)] * 200, mean))
