"""Sharded over ranks is one process: losses, gradients, weights after load; batches that lack something; dtypes.

Every world is one start of `tests.parallel.ranks` under torchrun with gloo. Sums over ranks are rounded in another order than
sums over rows, so gradients agree to 1e-6; routing then differs where two rows nearly tie, unless it is replayed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from momafuse.parallel.sharding import shard_dim
from tests.members import MEMBERS

SOME = ("dense", "moe_8x", "moma_7t1i", "mod_moma_4t4i", "mot", "mot_text_moe4")
# Norms of two heads of queries are cut by head, those of the one of keys along its width.
OF_HEADS = "model.attention.qk_norm_per_head=true model.attention.n_kv_heads=1"
WITH_OPTIONS = (f"dense {OF_HEADS}", f"mot model.attention.qk_norm=layer {OF_HEADS}")


def results(ranks: int, names: tuple[str, ...], folder: Path, replicas: int = 1) -> dict[str, dict[str, object]]:
    out = folder / f"{ranks}.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*torchrun, "-m", "tests.parallel.ranks", str(out), str(replicas), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, object]] = json.loads(out.read_text())
    return found


def check(found: dict[str, dict[str, object]], name: str) -> None:
    r = found[name]
    assert r["equal"], "weights right after they are filled"
    assert r["loss"] < 1e-6
    absolute, relative = r["gradient"]
    assert absolute < 1e-6
    assert relative < 5e-6  # of the largest entry of each tensor: a few roundings of fp32
    assert r["replayed"] < 1e-5
    absolute, relative = found[f"{name} lacking"]["gradient"]
    assert absolute < 1e-6
    assert relative < 5e-6


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    return results(2, (*SOME, *WITH_OPTIONS), tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", [*SOME, *WITH_OPTIONS])
def test_two_ranks_are_one_process(two, name):
    check(two, name)


def test_routers_compute_in_fp32_and_noise_arrives_in_fp32(two):
    fp32 = "torch.float32"
    wanted = {"rows": "torch.bfloat16", "weight": fp32, "logits": fp32, "noise": fp32, "hidden": "torch.bfloat16"}
    assert two["dtypes"] == wanted


@pytest.mark.parametrize("name", ["moma_4t4i", "mod_moma_4t4i"])
def test_auxiliary_routers_are_sharded_learn_and_choose_as_in_one_process(two, name):
    r = two[f"{name} auxiliary"]
    assert r["sharded"]
    assert r["dtype"] == ["torch.float32"]
    assert r["loss"] < 1e-6
    assert r["gradient"][0] < 1e-6
    assert r["causal"] < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_member_at_every_number_of_ranks(ranks, tmp_path, capsys):
    found = results(ranks, MEMBERS, tmp_path)
    with capsys.disabled():
        print(f"\n{ranks} ranks, 20 steps with routing of their own against one process: loss, rows that flipped of all chosen")
        for name in MEMBERS:
            lost, taken = found[name]["flipped"]
            print(f"{name:<16} {found[name]['free']:.1e}  {lost} of {taken}")
    for name in MEMBERS:
        check(found, name)


@pytest.mark.slow
def test_replicas_of_two_shards_are_one_process(tmp_path):
    found = results(4, SOME, tmp_path, replicas=2)
    for name in SOME:
        check(found, name)


def test_a_dimension_that_divides_is_cut_and_else_the_first():
    shapes = {(8, 6, 4): 0, (3, 6, 5): 1, (1, 5, 4): 2, (1, 5, 3): 0, (7,): 0, (12287, 256): 1}
    assert {s: shard_dim(torch.empty(s), 2) for s in shapes} == shapes
