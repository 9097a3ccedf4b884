"""Factors against curves worked out by hand: known speed-ups, bounds, losses that are never reached, smoothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from momafuse.comparison.curves import WINDOW, Curve, Factor, Factors, factor, smoothed, spread


def curve(flops, loss, **axes) -> Curve:
    at = {name: np.array(values, dtype=np.float64) for name, values in {"flops": flops, "tokens": flops, **axes}.items()}
    return Curve(at, np.array(loss, dtype=np.float64))


def test_a_curve_that_is_another_twice_as_fast_has_eta_2():
    flops = np.arange(1, 201) * 1e12
    noise = np.random.default_rng(0).normal(0, 0.05, 400)

    def dense(c):  # any curve, noise and all, that is a function of FLOPs
        return 3 + 4 * (c / 1e12) ** -0.3 + noise[np.round(c / 1e12).astype(int) - 1]

    base = smoothed(curve(2 * flops, dense(2 * flops)))
    sparse = smoothed(curve(flops, dense(2 * flops)))
    assert np.array_equal(base.loss, sparse.loss)
    end = float(base.loss.min())
    there = int(np.argmin(base.loss))
    found = factor(sparse, "flops", end, float(base.at["flops"][there]))
    assert found.state == "reached"
    assert found.value == pytest.approx(2.0, abs=1e-12)


def test_between_two_evaluations_a_loss_falls_in_a_line_over_the_logarithm():
    # the baseline ends at 5 nats after 8e12; the other is at 6 after 1e12, at 4 after 4e12: at 5 after the geometric mean, 2e12
    found = factor(curve([1e12, 4e12, 8e12], [6, 4, 3.5]), "flops", 5.0, 8e12)
    assert found == Factor("reached", pytest.approx(4.0), pytest.approx(2.0), pytest.approx(8.0), pytest.approx(4.0))
    assert not Factors([found]).comes_back
    # MoMa's Table: eta 3.7 is a share of 27 %
    assert Factors([Factor("reached", 3.7, 3.7, 3.7)]).shares.mean == pytest.approx(0.27027, abs=1e-5)


def test_a_point_of_just_that_loss_counts_as_there():
    found = factor(curve([1e12, 2e12, 4e12], [6, 5, 4]), "flops", 5.0 - 1e-12, 4e12)
    assert found.value == pytest.approx(2.0)
    own = curve([1e12, 2e12, 4e12], [6, 5, 4])
    assert factor(own, "flops", 4.0, 4e12).value == pytest.approx(1.0)


def test_a_loss_that_is_never_reached_has_no_number_but_how_far_off_it_stays():
    found = factor(curve([1e12, 2e12, 4e12], [6, 5.2, 5.3]), "flops", 5.0, 4e12)
    assert (found.state, found.value) == ("never", None)
    assert found.gap == pytest.approx(0.2)  # of the lowest point, not of the last


def test_a_curve_that_begins_below_bounds_the_factor():
    found = factor(curve([1e12, 2e12], [4.9, 4]), "flops", 5.0, 4e12)
    assert (found.state, found.value, found.low, found.high) == ("bound", 4.0, 4.0, None)
    assert factor(curve([4e12], [4.9]), "flops", 5.0, 4e12) == Factor("bound", 1.0, 1.0, None, 1.0)  # the last point alone


def test_the_first_crossing_counts():
    found = factor(curve([1e12, 2e12, 4e12, 8e12], [6, 4.9, 5.5, 4]), "flops", 4.9, 8e12)
    assert found.value == pytest.approx(4.0)
    assert found.lasting == pytest.approx(8 / (4 * 2 ** (0.6 / 1.5)))  # down from 5.5 to 4: 4.9 after two fifths of the octave
    assert Factors([found]).comes_back
    again = factor(curve([1e12, 2e12, 4e12], [6, 4, 5.5]), "flops", 4.9, 8e12)
    assert (again.state, again.lasting) == ("reached", None)
    start = factor(curve([1e12, 2e12, 4e12, 8e12], [4, 6, 4, 3]), "flops", 5.0, 8e12)
    assert (start.state, start.value, start.lasting) == ("bound", 8.0, pytest.approx(8 / 2 / 2**0.5))


def test_other_axes_and_what_is_missing():
    timed = curve([1e12, 2e12, 4e12], [6, 5, 4], seconds=[0.0, 30.0, 60.0])
    assert factor(timed, "seconds", 5.0, 90.0) == Factor(
        "bound", 3.0, 3.0, None, 3.0
    )  # before the first second there is no point
    assert factor(timed, "flops", None, 4e12).state == "missing"
    assert factor(None, "flops", 5.0, 4e12).state == "missing"
    assert factor(curve([1e12], [5]), "seconds", 5.0, 90.0).state == "missing"


def test_the_window_is_a_share_of_the_tokens_so_far():
    loss = np.random.default_rng(1).normal(5, 1, 120)
    tokens = np.arange(1, 121) * 4096.0
    got = smoothed(curve(tokens, loss)).loss
    for n in (1, 2, 5, 10, 11, 19, 20, 99, 100, 120):
        x = np.linspace(max((1 - WINDOW) * n, 1), n, 200_001)  # a fine ruler in place of areas
        drawn = np.interp(x, np.arange(1, 121), loss)
        assert got[n - 1] == pytest.approx((drawn[1:] + drawn[:-1]).mean() / 2, abs=1e-6), n
    assert got[0] == loss[0]
    assert got[19] == pytest.approx((loss[17] / 2 + loss[18] + loss[19] / 2) / 2)  # from 18 to 20


def test_a_straight_line_stays_one_half_a_window_behind():
    tokens = np.arange(20, 41) * 1.0
    got = smoothed(curve(tokens, 10 - tokens / 10)).loss
    assert got[5:] == pytest.approx((10 - 0.95 * tokens / 10)[5:])


def test_seeds_are_a_mean_a_deviation_and_how_many_get_there():
    both = Factors([Factor("reached", 2.0, 1.5, 2.5), Factor("reached", 3.0, 2.0, 4.0)])
    assert (both.state, both.found.mean, both.found.n, both.limits) == ("reached", 2.5, 2, (1.5, 4.0))
    assert both.found.std == pytest.approx(math.sqrt(0.5))
    assert both.shares.mean == pytest.approx((1 / 2 + 1 / 3) / 2)
    one = Factors([Factor("reached", 2.0, 1.5, 2.5), Factor("never", gap=0.3)])
    assert (one.state, one.found.n, one.found.std, one.gap.mean, one.limits) == ("never", 1, None, 0.3, None)
    assert Factors([Factor("bound", 2.0, 2.0), Factor("reached", 2.0, 1.0, 3.0)]).state == "bound"
    assert spread([]) is None
