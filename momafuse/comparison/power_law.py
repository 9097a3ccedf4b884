"""A power law over the sizes of one member: the loss at the end of each run over the FLOPs that it took.

    three sizes    L(C) = a C^-b          two numbers from three points leave one to check them by
    four or more   L(C) = a C^-b + c      c >= 0, what no size would get below; three numbers through three points prove nothing

Least squares in nats. For a given b the law is linear in (a, c), so that only b is searched: on a grid over EXPONENTS, then by
golden section around the best of it. The same points give the same numbers. The law is that of these runs, as long and on as
many tokens as they were, and of nothing outside of their range of FLOPs: nothing is extrapolated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EXPONENTS = (1e-3, 2.0)
LEAST = 3  # sizes
WITH_FLOOR = 4  # sizes from which there is a c


@dataclass(frozen=True)
class PowerLaw:
    a: float  # nats at `unit` FLOPs, above c
    b: float
    c: float | None  # None: the form without one
    unit: float  # FLOPs, the geometric mean of the points: L = a (C / unit)^-b + c
    residual: float  # root mean square in nats
    points: list[tuple[float, float]]  # FLOPs, loss

    def __call__(self, flops: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Within the range of the points. Raises ValueError outside of it."""
        if flops.min() < self.points[0][0] * (1 - 1e-9) or flops.max() > self.points[-1][0] * (1 + 1e-9):
            raise ValueError("a power law is not for FLOPs outside of its points")
        return self.a * (flops / self.unit) ** -self.b + (self.c or 0.0)


def fit(points: Sequence[tuple[float, float]]) -> PowerLaw | None:
    """Of (FLOPs, loss), at least LEAST of different FLOPs; else None."""
    points = sorted(points)
    flops, loss = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if len(np.unique(flops)) < LEAST:
        return None
    unit, floor = float(np.exp(np.log(flops).mean())), len(points) >= WITH_FLOOR
    x = flops / unit

    def wrong(log_b: float) -> float:
        a, c = _linear(x ** -np.exp(log_b), loss, floor)
        return float(((a * x ** -np.exp(log_b) + c - loss) ** 2).sum())

    grid = np.linspace(np.log(EXPONENTS[0]), np.log(EXPONENTS[1]), 400)
    best = int(np.argmin([wrong(g) for g in grid]))
    log_b = _golden(wrong, grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)])
    a, c = _linear(x ** -np.exp(log_b), loss, floor)
    residual = (wrong(log_b) / len(points)) ** 0.5
    return PowerLaw(a, float(np.exp(log_b)), c if floor else None, unit, residual, list(points))


def _linear(falling: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], floor: bool) -> tuple[float, float]:
    """The best a, and c >= 0 (0 without a floor)."""
    if floor:
        slope = falling - falling.mean()
        a = float((slope * loss).sum() / (slope**2).sum())
        c = float(loss.mean() - a * falling.mean())
        if c > 0:
            return a, c
    return float((falling * loss).sum() / (falling**2).sum()), 0.0


def _golden(wrong: Callable[[float], float], low: float, high: float) -> float:
    ratio = (5**0.5 - 1) / 2
    for _ in range(80):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if wrong(left) <= wrong(right) else (left, high)
    return (low + high) / 2
