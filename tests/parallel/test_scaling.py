"""Plans for many ranks against what ranks do: bytes of their collectives, memory of a process, seconds of the model by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from momafuse.parallel.scaling import HOP, Cluster, rank_memory, scaling, traffic, units
from momafuse.reports.flops import forward_flops, recomputed_flops
from momafuse.reports.gpus import Gpu
from momafuse.reports.work import model_work
from momafuse.training.fake import fake_model
from tests.reports.test_memory import DTYPES, VOCABULARY, budget_of, configured, fake

TOP = Path(__file__).parents[2]
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0", "MALLOC_ARENA_MAX": "1"}
NANO = ("+experiment=moma_4t4i", "size=nano", "model.n_layers=3", "trainer.micro_batch=4", "trainer.global_batch=16")


def model_of(*words: str):
    config = configured(*words)
    with FakeTensorMode():
        return fake_model(config, VOCABULARY, DTYPES[config.trainer.precision])


def measured(tmp_path: Path, ranks: int, replicas: int, *words: str) -> dict:
    out = tmp_path / "facts.json"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "tests.parallel.traffic"]
    command = [sys.executable, *launcher, str(out), str(replicas), *words]
    done = subprocess.run(command, cwd=TOP, env=os.environ | MALLOC, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def planned(cluster: Cluster, *words: str) -> dict[str, dict[str, int]]:
    t = configured(*words).trainer
    reduce_dtype = torch.bfloat16 if t.reduce_dtype == "bf16" else torch.float32
    return traffic(*units(model_of(*words), cluster.shards, DTYPES[t.precision], reduce_dtype), cluster, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "replicas", "words"),
    [
        (2, 1, ("+experiment=moma_4t4i",)),
        (3, 1, ("+experiment=mod_moma_4t4i", "trainer.precision=bf16")),  # shards that are padded
        (4, 2, ("+experiment=mot", "trainer.precision=bf16", "trainer.reduce_dtype=bf16")),
        (2, 1, ("+experiment=moma_4t4i", "trainer.activation_checkpointing=full")),
    ],
)
def test_a_rank_receives_what_was_said(tmp_path, ranks, replicas, words):
    """To the byte: gathers, reductions and the sums of replicas that a real step makes."""
    assert measured(tmp_path, ranks, replicas, *words)["received"] == planned(Cluster(1, ranks, replicas), *words)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads what Linux says of a process")
@pytest.mark.parametrize("mode", ["none", "full"])
def test_a_rank_takes_the_memory_that_was_said(tmp_path, mode):
    """Within 10 %: shards that it keeps, and by how much its process grows in a step."""
    words = (*NANO, f"trainer.activation_checkpointing={mode}")
    facts = measured(tmp_path, 2, 1, *words)
    plan = rank_memory(*units(model_of(*words), 2, torch.float32, torch.float32), 2, fake(configured(*words)))
    assert facts["kept"] == plan["weights"] + plan["gradients"] + plan["optimizer"]
    assert facts["kept"] + facts["grown"] == pytest.approx(plan["total"], rel=0.1)


def test_all_parameters_are_in_one_unit_and_one_rank_receives_nothing():
    for words in (("+experiment=mod_moma_4t4i",), ("+experiment=mot",), ("+experiment=dense",)):
        model = model_of(*words)
        blocks, root = units(model, 1, torch.bfloat16, torch.float32)
        assert root.numbers + sum(u.numbers for b in blocks for u in b) == sum(p.numel() for p in model.parameters())
        assert not any(n for sizes in traffic(blocks, root, Cluster(1, 1, 1), 3).values() for n in sizes.values())


def test_routers_travel_in_fp32_and_frozen_parameters_are_not_reduced():
    found = planned(Cluster(1, 2, 1), "+experiment=moma_4t4i", "trainer.precision=bf16")
    routers = sum(p.numel() for path, p in model_of("+experiment=moma_4t4i").named_parameters() if "router" in path)
    assert found["all_gather"]["fp32"] == 2 * 4 * routers // 2
    frozen = planned(Cluster(1, 2, 1), "+experiment=moma_4t4i", "optim.train=['*.experts.*']")
    assert 0 < frozen["reduce_scatter"]["fp32"] < found["reduce_scatter"]["fp32"]
    assert sum(frozen["all_gather"].values()) > sum(found["all_gather"].values())


@cache
def plan(nodes: int, gpus: int, replicas: int, gpu: Gpu, *words: str) -> dict:
    config = configured("+experiment=moma_4t4i", f"trainer.replicas={replicas}", "trainer.global_batch=64", *words)
    cluster = Cluster(nodes, gpus, replicas)
    model = model_of("+experiment=moma_4t4i", *words)
    return scaling(config, model, budget_of(config), fake(config), torch.float32, cluster, gpu, 0.5)


SLOW_LINKS = Gpu("test", 1e18, 1e9, 1e6, 1e5)  # nothing but communication
FAST_LINKS = Gpu("test", 1e9, 1e9, 1e30, 1e30)  # nothing but computing and hops


def test_seconds_without_communication_are_those_of_the_flops():
    config = configured("+experiment=moma_4t4i", "trainer.replicas=1", "trainer.global_batch=64")
    work = model_work(config.model, config.router, VOCABULARY.names, budget_of(config))
    flops = 3 * sum(forward_flops(config.model, work, VOCABULARY.size).values()) * 4 * sum(budget_of(config))
    s = plan(1, 2, 1, FAST_LINKS)["seconds"]
    assert plan(1, 2, 1, FAST_LINKS)["micro_batches"] == 8
    assert s["compute"] == pytest.approx(8 * flops / (1e9 * 0.5))
    assert s["step"] == pytest.approx(s["compute"], rel=1e-3)
    assert s["mfu"] == pytest.approx(0.5, rel=1e-3)


def test_recomputing_takes_longer_and_is_no_use():
    none, full = (plan(1, 2, 1, FAST_LINKS, f"trainer.activation_checkpointing={mode}") for mode in ("none", "full"))
    config = configured("+experiment=moma_4t4i")
    work = model_work(config.model, config.router, VOCABULARY.names, budget_of(config))
    parts = forward_flops(config.model, work, VOCABULARY.size)
    longer = 1 + recomputed_flops(parts, "full") / (3 * sum(parts.values()))
    assert full["seconds"]["compute"] / none["seconds"]["compute"] == pytest.approx(longer)
    assert full["seconds"]["mfu"] < none["seconds"]["mfu"]


def test_seconds_without_computing_are_bytes_by_bandwidth():
    for nodes, gpus, bandwidth in ((1, 4, 1e6), (2, 2, 2 * 1e5)):
        found = plan(nodes, gpus, 1, SLOW_LINKS)
        received = sum(n for sizes in found["bytes_received"].values() for n in sizes.values())
        s = found["seconds"]
        assert s["communication"] == pytest.approx(received / bandwidth, rel=1e-3)
        assert s["step"] == pytest.approx(s["communication"], rel=1e-3)


def test_replicas_gather_within_the_node():
    """Two nodes of two: a model on each node gathers over the links, and only gradients of a shard cross, by one adapter."""
    found = plan(2, 2, 2, SLOW_LINKS)
    gathered, reduced, summed = (sum(sizes.values()) for sizes in found["bytes_received"].values())
    assert found["shards"] == 2
    assert found["seconds"]["communication"] == pytest.approx((gathered + reduced) / 1e6 + summed / 1e5, rel=1e-3)


def test_hops_add_up_with_ranks():
    found = {n: plan(n, 1, 1, FAST_LINKS) for n in (2, 8)}
    few, many = (found[n]["seconds"]["communication"] / found[n]["micro_batches"] for n in (2, 8))
    assert many / few == pytest.approx(7)
    collectives = 2 + 2 * 2 * 3  # the root's two; of two layers the block's and its router's three
    assert few == pytest.approx(collectives * HOP)
