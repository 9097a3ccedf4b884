"""`trainer.profile=10:13`: a trace of steps 10 to 13 of the main process, RUN/profile/steps_10_13.json.gz (ui.perfetto.dev).

Steps are traced from their data to their row in metrics.jsonl; evaluations and saves in between are seen too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from momafuse.config.schema import LoopConfig
from momafuse.world import World


class Profile:
    def __init__(self, config: LoopConfig, run: Path, world: World, say: Callable[[str], None]) -> None:
        self._first, self._last = (config.profiled() if world.main else None) or (0, 0)
        self._path, self._say = run / "profile" / f"steps_{self._first}_{self._last}.json.gz", say
        self._gpu = world.device.type == "cuda"
        self._trace: profile | None = None

    def begin(self, step: int) -> None:
        if step == self._first:
            self._trace = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._gpu else [])])
            self._trace.start()

    def end(self, step: int) -> None:
        if self._trace is not None and step == self._last:
            self._trace.stop()
            self._path.parent.mkdir(exist_ok=True)
            self._trace.export_chrome_trace(str(self._path))
            self._trace = None
            self._say(f"{self._path}: the trace of steps {self._first} to {self._last}")
