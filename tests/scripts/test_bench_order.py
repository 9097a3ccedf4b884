"""scripts/bench_order.py at micro size: both orders are the same function, and what is measured has its rows."""

from __future__ import annotations

import json

import bench_order
import pytest

from momafuse.config.compose import compose
from momafuse.parallel.precision import resolve_device
from momafuse.training.setup import build_model
from momafuse.world import World

WORDS = ["size=micro", "trainer.precision=fp32", "trainer.micro_batch=4"]


@pytest.mark.parametrize("masks", ["true", "false"])
@pytest.mark.parametrize("experiment", ["moe_1t1i", "mot"])
def test_both_orders_are_the_same_function(experiment, masks):
    config = compose([f"+experiment={experiment}", *WORDS, f"model.attention.document_mask={masks}"]).config
    model, dtype = build_model(config, bench_order.STARTER, World(0, 1, resolve_device("cpu"), None, None))
    batch = bench_order.interleaved(bench_order.random_batch(config, bench_order.STARTER))
    assert batch.document.max() == bench_order.STRETCHES - 1
    assert bench_order.difference(model, batch, dtype) < 2e-6


def test_it_writes_the_documented_rows(tmp_path, monkeypatch):
    out = tmp_path / "order.json"
    words = ["mot", "--size", "micro", "--rounds", "2", "--precision", "fp32", "--set", "trainer.micro_batch=4"]
    monkeypatch.setattr("sys.argv", ["bench_order.py", *words, "--out", str(out)])
    bench_order.main()
    (row,) = json.loads(out.read_text())["rows"]
    wanted = "experiment dtype difference blocks_ms blocks_ratio attention_ms attention_ratio mask_ms"
    assert set(row) == set(wanted.split())
    assert len(row["blocks_ms"]) == len(row["attention_ms"]) == 2


def test_routers_are_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench_order.py", "moma_4t4i", "--size", "micro"])
    with pytest.raises(SystemExit, match=r"^bench_order: error: moma_4t4i: modality order is for models of one expert"):
        bench_order.main()
