"""Laws that the points were made from are found again; noise shows in the residual; nothing is said outside of the points."""

from __future__ import annotations

import numpy as np
import pytest

from momafuse.comparison.power_law import fit


def points(a: float, b: float, c: float, flops) -> list[tuple[float, float]]:
    return [(f, a * (f / 1e18) ** -b + c) for f in flops]


def test_three_sizes_have_no_floor():
    law = fit(points(3.0, 0.12, 0.0, [1e18, 8e18, 5e19]))
    assert law.c is None
    assert law.b == pytest.approx(0.12, rel=1e-6)
    assert law.a * (1e18 / law.unit) ** -law.b == pytest.approx(3.0, rel=1e-6)
    assert law.residual < 1e-6


def test_four_sizes_have_one():
    law = fit(points(2.0, 0.25, 1.7, [1e18, 3e18, 2e19, 4e20]))
    assert (law.b, law.c) == (pytest.approx(0.25, rel=1e-4), pytest.approx(1.7, rel=1e-4))
    assert law(np.array([3e18]))[0] == pytest.approx(2.0 * 3**-0.25 + 1.7, rel=1e-6)


def test_the_floor_is_not_below_zero():
    steep = [(1e18, 4.0), (1e19, 3.0), (1e20, 2.0), (1e21, 1.0)]  # a line over log C: no power law bends so
    law = fit(steep)
    assert law.c == 0.0
    assert law.residual > 0.05


def test_fewer_sizes_have_no_law_and_none_is_extrapolated():
    assert fit(points(3.0, 0.1, 0.0, [1e18, 1e19])) is None
    assert fit([(1e18, 3.0), (1e18, 3.1), (1e19, 2.0)]) is None
    law = fit(points(3.0, 0.1, 0.0, [1e20, 1e18, 1e19]))  # in any order
    assert [f for f, _ in law.points] == [1e18, 1e19, 1e20]
    law(np.array([1e18, 1e20]))
    for outside in (9e17, 1.1e20):
        with pytest.raises(ValueError, match="outside"):
            law(np.array([outside]))
