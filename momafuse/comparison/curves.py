"""The arithmetic of a speed-up: where a curve of losses first reaches a loss, and what that is of the baseline's course.

    eta = X_baseline(end) / X_run(L),   X FLOPs, tokens or seconds,   L = the baseline's loss at its end       MoMa, 2407.21770
    s   = 1 / eta of tokens: the share of the baseline's steps                                                 MoT, 2411.04996

First crossing: the first point at or below L; between it and the point before, the loss is taken to fall in a line over log X.
Losses fall about as a power of X, which is closer to that than to a line over X; where it is convex it lies below its chord,
so that a crossing comes out late and a factor low. The two points bound the factor whatever lies between them.
A curve that begins at or below L bounds the factor from below; one that stays above L has none. A stretch of easy data takes a
curve below L before it is there for good: the factor by the point from which it stays below stands beside the first.

Losses of single steps are noise: a training loss is the mean of the line through them over the last tenth of the tokens so far.
The window grows with the axis, so that a curve which is another one, k times as fast, is so after smoothing, and eta is k.
Held-out losses stay as they are. Knows nothing of runs, and says nothing about a loss that no point is near.

Shape legend: n points of a curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import numpy as np
import numpy.typing as npt

AXES = ("flops", "tokens", "seconds")
WINDOW = 0.1  # of the tokens so far
BACK = 1.02  # first over lasting factor: from here on both are told
SAME = 1e-9  # nats: sums in another order differ in the last digits

Numbers = npt.NDArray[np.float64]
State = Literal["reached", "bound", "never", "missing"]


@dataclass(frozen=True)
class Curve:
    at: Mapping[str, Numbers]  # axis -> (n,) rising
    loss: Numbers  # (n,) nats

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True)
class Factor:
    """How many times as much of an axis the baseline took."""

    state: State
    value: float | None = None  # reached: by interpolation; bound: at least
    low: float | None = None  # by the points on either side
    high: float | None = None
    lasting: float | None = None  # by the crossing after which the curve stays there; None: it does not
    gap: float | None = None  # never: nats from the lowest point down to the loss asked for


@dataclass(frozen=True)
class Spread:
    """Over seeds; the deviation is that of a sample (n - 1), None for one seed."""

    mean: float
    std: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """None of nothing."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None


def smoothed(curve: Curve) -> Curve:
    """Each loss the mean of the line through the points over [(1 - WINDOW) T, T], T the tokens at the point."""
    tokens, loss = curve.at["tokens"], curve.loss
    areas = np.diff(tokens) * (loss[1:] + loss[:-1]) / 2
    until = np.concatenate([[0.0], np.cumsum(areas)])  # from the first point on
    start = np.maximum((1 - WINDOW) * tokens, tokens[0])
    before = np.maximum(np.searchsorted(tokens, start, side="right") - 1, 0)  # the point at or before the window's start
    part = (start - tokens[before]) * (loss[before] + np.interp(start, tokens, loss)) / 2
    wide = tokens - start
    means = np.divide(until - until[before] - part, wide, out=loss.copy(), where=wide > 0)
    return Curve(curve.at, means)


def factor(curve: Curve | None, axis: str, target: float | None, total: float | None) -> Factor:
    """Of the baseline's `total` of an axis, at whose end it has the loss `target`, and what the curve took to get there."""
    if curve is None or target is None or not total or axis not in curve.at:
        return Factor("missing")
    after_start = curve.at[axis] > 0  # an upcycled run evaluates before its first second
    x, loss = curve.at[axis][after_start], curve.loss[after_start]
    if not len(x):
        return Factor("missing")
    below = np.flatnonzero(loss <= target + SAME)
    if not len(below):
        return Factor("never", gap=float(loss.min()) - target)
    i = int(below[0])
    above = np.flatnonzero(loss > target + SAME)
    last = int(above[-1]) + 1 if len(above) else 0  # from here on it is there
    lasting = None if last == len(loss) else total / _crossing(x, loss, last, target)
    if i == 0:
        return Factor("bound", total / float(x[0]), total / float(x[0]), lasting=lasting)
    return Factor("reached", total / _crossing(x, loss, i, target), total / float(x[i]), total / float(x[i - 1]), lasting)


def _crossing(x: Numbers, loss: Numbers, i: int, target: float) -> float:
    """Between the points i - 1, above the target, and i; the point 0 itself."""
    if i == 0:
        return float(x[0])
    share = min(1.0, (loss[i - 1] - target) / (loss[i - 1] - loss[i]))
    return float(np.exp((1 - share) * np.log(x[i - 1]) + share * np.log(x[i])))


@dataclass(frozen=True)
class Factors:
    """Those of all seeds of a row."""

    each: list[Factor]

    @property
    def state(self) -> State:
        """never if one of the seeds does not get there; bound if one is known from below only."""
        states = [f.state for f in self.each]
        worst: tuple[State, ...] = ("missing", "never", "bound")
        return next((state for state in worst if state in states), "reached" if states else "missing")

    @property
    def found(self) -> Spread | None:
        """Over the seeds that get there."""
        return spread([f.value for f in self.each if f.value is not None])

    @property
    def shares(self) -> Spread | None:
        """1 / value over the same seeds."""
        return spread([1 / f.value for f in self.each if f.value is not None])

    @property
    def lasting(self) -> Spread | None:
        """Over the seeds that stay there."""
        return spread([f.lasting for f in self.each if f.lasting is not None])

    @property
    def comes_back(self) -> bool:
        """Whether a seed is there, and above again later, by more than shows in two digits."""
        there = [f for f in self.each if f.value is not None]
        return any(f.lasting is None or (f.value or 0.0) > BACK * f.lasting for f in there)

    @property
    def gap(self) -> Spread | None:
        """Over the seeds that do not."""
        return spread([f.gap for f in self.each if f.gap is not None])

    @property
    def limits(self) -> tuple[float, float] | None:
        """The lowest and the highest that the points allow, where all seeds get there between two of them."""
        pairs = [(f.low, f.high) for f in self.each if f.low is not None and f.high is not None]
        return (min(p[0] for p in pairs), max(p[1] for p in pairs)) if pairs and len(pairs) == len(self.each) else None
