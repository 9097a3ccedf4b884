from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from momafuse.data.corpus import Split
from momafuse.data.mixture import CYCLE, Mixture, Shares, Tape, keyed_hash, keyed_order, sorted_by
from momafuse.tokens.vocabulary import Vocabulary
from tests.data.toy import Case, cases, make_split


@given(st.integers(0, 2**64 - 1), st.integers(0, 200))
def test_a_keyed_order_is_a_permutation(key: int, n: int) -> None:
    assert sorted(keyed_order(key, n).tolist()) == list(range(n))


def test_the_hash_is_splitmix64() -> None:
    state, mask, expected = 1234567, 2**64 - 1, []
    for _ in range(5):  # the paper's generator, in Python's integers
        state = (state + 0x9E3779B97F4A7C15) & mask
        x = state
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        expected.append(x ^ (x >> 31))
    assert expected[0] == 6457827717110365317  # its published first value for this seed
    assert keyed_hash(1234567, 5).tolist() == expected
    assert keyed_order(1234567, 5).tolist() == sorted(range(5), key=expected.__getitem__)


def test_keyed_orders_differ() -> None:
    assert len({tuple(keyed_order(key, 6).tolist()) for key in range(2000)}) > 650  # of 720


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 40)), max_size=60), st.sampled_from([41, 2**57]))
def test_sorts_by_several_keys(rows: list[tuple[int, int, int]], bound: int) -> None:
    """Also where the keys' bounds are too many for one number."""
    table = np.array(rows, np.int64).reshape(-1, 3)
    found = sorted_by((table[:, 0], 7), (table[:, 1], 3), (table[:, 2], bound))
    assert found.tolist() == sorted(range(len(rows)), key=lambda i: rows[i])


@given(st.lists(st.floats(1e-4, 100), min_size=1, max_size=6), st.lists(st.integers(0, 10**13), min_size=2, max_size=20))
def test_shares_are_monotone_and_lose_nothing(weights: list[float], places: list[int]) -> None:
    shares = Shares(weights)
    before = [shares.split(p) for p in sorted(places)]
    for place, split in zip(sorted(places), before, strict=True):
        assert split.sum() == place
        assert (split >= 0).all()
    for a, b in pairwise(before):
        assert (b >= a).all()


def test_shares_are_even_at_every_scale() -> None:
    shares = Shares([3.0, 1.0, 2.0])
    for place in range(0, 3 * CYCLE, 7):
        assert np.abs(shares.split(place) - np.array([0.5, 1 / 6, 1 / 3]) * place).max() <= 2.0
    assert Shares([1e-9, 1.0]).realised[0] == 1 / CYCLE


def walk(split: Split, tape: Tape) -> Iterator[tuple[int, int, int]]:
    """The documents of the tape's first two passes, (document, start, stop), one place at a time: cut after every
    picture (or token)."""
    for document in tape.segment(0, 2 * tape.length).document.tolist():
        base, end = int(split.offsets[document]), int(split.offsets[document + 1])
        rows = split.items[split.item_index[document] : split.item_index[document + 1]].tolist()
        cuts = [first + length + 1 - base for first, length in rows] if tape.whole else list(range(1, end - base + 1))
        cuts = [0, *cuts[:-1], end - base]
        yield from ((document, a, b) for a, b in pairwise(cuts))


def tapes(case: Case) -> list[Tape]:
    sources = case.split.sources
    return [Tape(case.split, source, case.window, 0 if source.plain else 1, 7 + case.seed) for source in sources]


@given(cases(), st.data())
def test_a_tape_agrees_with_a_walk_over_its_documents(case: Case, data: st.DataObject) -> None:
    kind = case.vocabulary.modality_of_ids()
    for tape, source in zip(tapes(case), case.split.sources, strict=True):
        places = list(walk(case.split, tape))
        for number in range(2):  # every pass has every document once, each in one run
            documents = tape.segment(number * tape.length, (number + 1) * tape.length).document.tolist()
            assert sorted(documents) == list(range(source.first, source.first + source.documents))
        a = data.draw(st.integers(0, 2 * tape.length - 1))
        b = data.draw(st.integers(a, 2 * tape.length))
        units, got = tape.segment(a, b), []
        for d, base, start, stop in zip(units.document, units.base, units.start, units.stop, strict=True):
            assert base == case.split.offsets[d]
            got += [(d, t) for t in range(start, stop)]
        pictureless = {d for d in range(source.first, source.first + source.documents) if case.split.kinds[d] == 2}
        if tape.whole:
            places = [p for p in places if p[0] not in pictureless]
            got = [g for g in got if g[0] not in pictureless]
        assert got == [(d, t) for d, start, stop in places[a:b] for t in range(start, stop)]
        assert units.size.sum() == b - a
        before = tape.segment(0, a)
        rows = zip(before.base, before.start, before.stop, strict=True)
        text = sum(1 for base, start, stop in rows for t in range(start, stop) if kind[case.split.tokens[base + t]] == 0)
        assert tape.tokens_before(a)[0] == text


@given(cases(), st.lists(st.integers(0, 100), min_size=1, max_size=6))
def test_consecutive_segments_hold_everything_once(case: Case, steps: list[int]) -> None:
    for tape in tapes(case):
        cuts = np.minimum(np.cumsum([0, *steps]), 2 * tape.length).tolist()

        def held(a: int, b: int, tape: Tape = tape) -> list[tuple[int, int]]:
            units = tape.segment(a, b)
            rows = zip(units.document.tolist(), units.start.tolist(), units.stop.tolist(), strict=True)
            return [(d, t) for d, start, stop in rows for t in range(start, stop)]

        whole = [x for a, b in pairwise(cuts) for x in held(a, b)]
        assert whole == held(0, cuts[-1])


def test_passes_differ_in_the_order_of_shards_and_documents() -> None:
    split = make_split({"text": [[5]] * 64}, Vocabulary.build(20, image=(9, 1)))
    tape = Tape(split, split.sources[0], 8, 0, 3)
    passes = [tape.segment(n * tape.length, (n + 1) * tape.length).document for n in range(2)]
    shards = [[d // 8 for d in p.tolist()[::8]] for p in passes]
    assert all(sorted(s) == list(range(8)) for s in shards)  # a shard's documents stay together
    assert shards[0] != shards[1]
    inside = [p[:8] % 8 for p in passes]
    assert inside[0].tolist() != inside[1].tolist()


@pytest.mark.parametrize("place", [0, 17, 100])
def test_a_mixture_puts_what_is_cut_at_its_ends(place: int) -> None:
    split = make_split({"a": [[9]] * 20, "b": [[14]] * 20}, Vocabulary.build(20, image=(9, 1)))
    mixture = Mixture([Tape(split, s, 4, 0, i) for i, s in enumerate(split.sources)], [1.0, 1.0])
    begins, ends = mixture.shares.split(place), mixture.shares.split(place + 101)
    units = mixture.segment(begins, ends)
    assert units.size.sum() == 101
    length = np.diff(split.offsets)[units.document]
    assert set(np.flatnonzero(units.start > 0)) == set(range(units.head))
    assert set(np.flatnonzero(units.stop < length)) == set(range(len(units) - units.tail, len(units)))
