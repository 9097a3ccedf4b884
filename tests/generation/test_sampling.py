"""Cuts and draws against loops over sorted probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from momafuse.generation.sampling import Sampling, choose, cut, generator, guided

LOGITS = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=2, max_size=12, unique=True)


def kept_by_loop(logits: list[float], s: Sampling) -> dict[int, float]:
    """Id -> probability."""
    z = {i: x / (s.temperature or 1) for i, x in enumerate(logits)}
    total = sum(math.exp(x) for x in z.values())
    p = dict(sorted(((i, math.exp(x) / total) for i, x in z.items()), key=lambda pair: -pair[1]))
    if s.top_k:
        p = dict(list(p.items())[: s.top_k])
        p = {i: x / sum(p.values()) for i, x in p.items()}
    kept, mass = {}, 0.0
    for i, x in p.items():
        if kept and mass >= s.top_p - 1e-9 and s.top_p < 1:
            break
        kept[i] = x
        mass += x
    largest = max(kept.values())
    kept = {i: x for i, x in kept.items() if x >= s.min_p * largest}
    return {i: x / sum(kept.values()) for i, x in kept.items()}


@given(
    LOGITS,
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 5),
    st.sampled_from([0.35, 0.77, 1.0]),
    st.sampled_from([0.0, 0.123]),
)
def test_cuts_against_a_loop(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    s = Sampling(temperature, top_k, top_p, min_p)
    found = cut(torch.tensor([logits], dtype=torch.float64), s).softmax(-1)[0]
    expected = kept_by_loop(logits, s)
    assert {i for i in range(len(logits)) if found[i] > 0} == set(expected)
    for i, p in expected.items():
        assert float(found[i]) == pytest.approx(p, abs=1e-9)


def test_draws_have_their_probabilities_and_their_own_generators() -> None:
    logits, allowed = torch.tensor([[0.0, 1.0, 2.0, 5.0]]), torch.tensor([[True, True, True, False]])
    draws = generator(0, "a", 0)
    found = torch.stack([choose(logits, allowed, Sampling(), [draws]) for _ in range(6000)]).flatten()
    expected = logits[0, :3].softmax(0)
    for i in range(3):
        share = float((found == i).float().mean())
        assert abs(share - float(expected[i])) < 4 * math.sqrt(0.25 / 6000)
    both = [choose(logits.repeat(2, 1), allowed.repeat(2, 1), Sampling(), [generator(0, p, 0) for p in order]).tolist()
            for order in ("ab", "ba")]  # fmt: skip
    assert both[0] == both[1][::-1]
    assert generator(0, "a", 0).initial_seed() != generator(0, "a", 1).initial_seed() != generator(1, "a", 1).initial_seed()


def test_temperature_zero_takes_the_largest_that_is_allowed() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0]])
    assert choose(logits, torch.tensor([[True, False, True]]), Sampling(0.0), []).tolist() == [2]


def test_guidance() -> None:
    with_, without = torch.randn(2, 3, 7).unbind()
    torch.testing.assert_close(guided(with_, without, 1.0), with_.log_softmax(-1))
    torch.testing.assert_close(guided(with_, without, 0.0), without.log_softmax(-1))
    expected = 3 * with_.log_softmax(-1) - 2 * without.log_softmax(-1)
    torch.testing.assert_close(guided(with_, without, 3.0), expected)
