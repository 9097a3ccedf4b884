"""scripts/tune_kernels.py as far as it goes without a GPU, and the table that it writes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from momafuse.kernels.triton.tiles import BUCKETS, INTERPRETED, TABLE, Kernel, Tile, tile_for

REPOSITORY = Path(__file__).parents[2]


def script():
    spec = importlib.util.spec_from_file_location("tune_kernels", REPOSITORY / "scripts/tune_kernels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_architecture_has_a_tile_for_every_kernel():
    for arch, kernels in json.loads(TABLE.read_text()).items():
        assert set(kernels) == set(get_args(Kernel)), arch
        for of_kernel in kernels.values():
            assert set(of_kernel) == {"16", "32"}
            assert all(set(of_bits) == set(BUCKETS) for of_bits in of_kernel.values())


def test_which_tile_is_taken():
    table = json.loads(TABLE.read_text())
    assert tile_for("up", 80, 16, 4 * 511, 4) == Tile(**table["80"]["up"]["16"]["few"])
    assert tile_for("up", 80, 16, 4 * 512, 4) == Tile(**table["80"]["up"]["16"]["many"])
    assert tile_for("rows", 86, 32, 0, 4) == Tile(**table["80"]["rows"]["32"]["few"]), "its first minor version"
    assert tile_for("rows", 120, 16, 9999, 1) == Tile(**table["80"]["rows"]["16"]["many"]), "less shared memory than 9.0"
    assert tile_for("rows", 0, 16, 9999, 1) == INTERPRETED
    with pytest.raises(RuntimeError, match=r"7\.5 is below 8\.0"):
        tile_for("rows", 75, 16, 9999, 1)


def test_tiles_are_squarish_and_the_least_product_of_times_wins():
    tune = script()
    a, b, c = list(tune.candidates(16))[:3]
    assert tune.ranking({a: [1.0, 8.0], b: [2.0, 3.0], c: [0.1]}) == [b, a], "c does not fit every shape"
    for bits in (16, 32):
        assert all(t.m * t.n // t.warps >= 1024 for t in tune.candidates(bits))


def test_every_tile_is_tried_at_one_size_and_the_fastest_few_at_all(monkeypatch):
    tune, compiled, tried = script(), [], []
    monkeypatch.setattr(tune, "calls", lambda kernel, d, f, places, dtype: [(d, f)])

    def timed(tile, call):
        tried.append((tile, call))
        if tile.m == 128 and call == (2048, 5504):
            return None  # does not fit
        return tile.n + tile.k + (tile.per_sm != 1) + tile.warps / 100 + tile.stages / 100

    monkeypatch.setattr(tune, "timed", timed)
    at = [(512, 1408), (1024, 2816), (2048, 5504)]
    tile, times = tune.tune("rows", 16, 128, at, lambda tasks: map(compiled.append, tasks))
    assert tile == Tile(64, 64, 32, 8, 4, 3, 1)
    assert times == pytest.approx([96.07] * 3)
    every = list(tune.candidates(16))
    assert tried[: len(every)] == [(t, at[1]) for t in every]
    assert len(tried) - len(every) == tune.FINALISTS * len(tune.PER_SM) * len(at)
    assert {(tile, shape) for _, _, shape, tile in compiled} == set(tried), "whatever is timed was compiled before"


def test_a_compiling_process_makes_every_launch(monkeypatch):
    """In the interpreter, which ignores the tile's size."""
    tune, made = script(), []
    monkeypatch.setattr(tune, "calls", lambda *args: [lambda: made.append(args)] * 2)
    tune.compile_task(("up", 32, (16, 20), Tile(64, 64, 32, 8, 4, 3, 0)))
    assert made == [("up", 16, 20, 16, torch.float32)] * 2


def test_its_launches_are_those_of_a_step(monkeypatch):
    """In the interpreter, at the smallest shape."""
    tune = script()
    monkeypatch.setattr(tune, "EXPERTS", 1)
    for maker in ("randn", "rand", "randperm", "arange"):
        real = getattr(torch, maker)
        monkeypatch.setattr(torch, maker, lambda *a, real=real, device=None, **k: real(*a, **k))
    for kernel in get_args(Kernel):
        for call in tune.calls(kernel, 16, 20, 3, torch.float32):
            call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    run = subprocess.run(
        [sys.executable, "scripts/tune_kernels.py"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("tune_kernels: error: torch finds no CUDA device")
