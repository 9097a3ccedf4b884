"""Says when the steps begin to wait for data: over `trainer.log_every` steps, and no less than `LEAST` seconds,

    share = seconds waited for the next micro-batches / seconds of the steps > LIMIT

The first step of a start has nothing ready and is left out. Said once, and again only after a stretch without. Where model
and loader share two CPU cores it is no noise: with a load of 8 beside them the share was 0.1 % at size nano, 0.1 to 0.7 % at
micro, and below 2 % in the worst ten steps. Counts what the loop has timed anyway (`perf/data_wait`), and asks no device.
"""

from __future__ import annotations

from collections.abc import Callable

LIMIT = 0.1
LEAST = 10.0  # seconds: in less, a hiccup of the machine would be a share


class Waits:
    def __init__(self, every: int, remedy: str, say: Callable[[str], None]) -> None:
        """`every`: steps of a stretch; `remedy`: what the line ends with."""
        self._every, self._remedy, self._say = every, remedy, say
        self._steps, self._waited, self._seconds = -1, 0.0, 0.0  # of the stretch; the first step does not count
        self._said = False

    def step(self, waited: float, seconds: float) -> None:
        """`waited` of the `seconds` that it took, by the rank that waited longest."""
        self._steps += 1
        if self._steps == 0:
            return
        self._waited, self._seconds = self._waited + waited, self._seconds + seconds
        if self._steps < self._every or self._seconds < LEAST:
            return
        share = self._waited / self._seconds
        if share > LIMIT and not self._said:
            self._say(f"{share:.0%} of the time the steps waited for data: {self._remedy}")
        self._said = share > LIMIT
        self._steps, self._waited, self._seconds = 0, 0.0, 0.0
