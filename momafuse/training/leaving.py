"""How a run leaves when it is asked to (preemption.py): what is new is saved, then Preempted ends it on all ranks.

Within a step nothing can be left, so ranks agree between steps, in the meeting that each step begins with anyway, or between
the micro-batches of an evaluation, which the next start then makes from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from momafuse.checkpoint.saving import Saver
from momafuse.preemption import Preempted, heeding

FIRST = "saving and leaving; Ctrl-C again leaves at once, without saving"


@contextmanager
def saved_before_leaving(saver: Saver, state: dict[str, Any], save: Callable[[], None]) -> Iterator[None]:
    """Calls `save` where steps were made that the newest checkpoint has not, and waits until all is written."""
    started = state["step"]
    with heeding(FIRST):
        try:
            yield
        except Preempted as left:
            step = state["step"]
            if step not in (started, saver.last):
                save()
            saver.wait()
            raise type(left)(f"step {step} is saved" if step != started else "nothing new to save") from None
