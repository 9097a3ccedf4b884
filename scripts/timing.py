"""The one way in which all benches time: members run in turn, and a GPU is asked what it worked, not what the host waited.

A round runs every member once, each round beginning with another one, so that a machine whose speed drifts slows all alike
and none always comes first; ratios are medians over the rounds of the ratio within a round. `seconds` is wall-clock time, the
device waited for; `device_seconds` is the sum of what the kernels took on a GPU (torch's profiler), which leaves out how long
the host took to launch them, and wall-clock time on a CPU.

Not here: what is timed, and what a bench prints beside it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Key = TypeVar("Key")
Action = Callable[[], object]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Action, device: torch.device) -> float:
    """Wall-clock seconds, from a device without work to one without work."""
    wait(device)
    begin = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - begin


def kernels(action: Action, device: torch.device) -> list[tuple[str, float, int]]:
    """What a GPU ran for it: name, seconds and number of each kernel, the longest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        action()
        wait(device)
    on_device = [e for e in found.key_averages() if e.device_type == DeviceType.CUDA]
    return sorted(((e.key, e.self_device_time_total / 1e6, e.count) for e in on_device), key=lambda row: -row[1])


def device_seconds(action: Action, device: torch.device) -> float:
    """Seconds that the kernels took on a GPU, however long the host took to launch them; wall-clock seconds on a CPU."""
    return sum(taken for _, taken, _ in kernels(action, device)) if device.type == "cuda" else seconds(action, device)


def paired(
    actions: Mapping[Key, Action],
    rounds: int,
    device: torch.device,
    *,
    timer: Callable[[Action, torch.device], float] = seconds,
    warm: int = 2,
    label: str = "rounds",
) -> dict[Key, list[float]]:
    """Seconds of every action in each round, after `warm` rounds that do not count."""
    keys = list(actions)
    times: dict[Key, list[float]] = {key: [] for key in keys}
    console = Console(stderr=True)
    for i in track(range(-warm, rounds), label, console=console, transient=True, disable=not sys.stderr.isatty()):
        turn = i % len(keys)
        for key in keys[turn:] + keys[:turn]:
            if i < 0:
                actions[key]()
            else:
                times[key].append(timer(actions[key], device))
    return times


def both_ways(
    members: Mapping[Key, Callable[[], Sequence[Tensor]]], inputs: Sequence[Tensor], rounds: int
) -> dict[Key, tuple[float, float]]:
    """Medians of seconds by device time: forward, and forward with the gradients of `inputs`."""
    device = inputs[0].device

    def both(member: Callable[[], Sequence[Tensor]]) -> None:
        y = member()
        torch.autograd.grad(y, inputs, [torch.ones_like(part) for part in y])

    actions: dict[tuple[Key, bool], Action] = {}
    for name, member in members.items():
        actions[name, False] = member
        actions[name, True] = lambda m=member: both(m)  # type: ignore[misc]
    taken = {k: statistics.median(t) for k, t in paired(actions, rounds, device, timer=device_seconds, warm=3).items()}
    return {name: (taken[name, False], taken[name, True]) for name in members}


def ratio(mine: Sequence[float], base: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return round(statistics.median(a / b for a, b in zip(mine, base, strict=True)), 4)


def milliseconds(times: Sequence[float]) -> float:
    return round(1e3 * statistics.median(times), 4)


def facts(device: torch.device) -> dict[str, object]:
    """What every result says of where it was made."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def write(result: dict[str, Any], out: Path | None) -> None:
    """As JSON to a file, or to standard output."""
    text = json.dumps(result, indent=1)
    if out is None:
        print(text)
    else:
        out.write_text(text + "\n")
