"""A run says what its routers did with held-out rows: report.json, rows of metrics, router.jsonl, plots/routing.png."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from momafuse.reports.metrics import read_metrics
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.router_report import over_even, summary, written
from momafuse.training.router_watch import Seen
from momafuse.training.routing_shown import typical, words_of
from tests.training.conftest import words

LOADS = "router.jsonl"


def of(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("experiment", ["moe_token_choice", "moma_threshold"])
def test_a_run_reports_and_draws(run, experiment):
    folder = run("trainer.max_steps=4", "trainer.eval_every=2", experiment=experiment, sheets=True)
    assert (folder / "plots/routing.png").stat().st_size > 10_000
    assert "What the experts took" in (folder / "index.html").read_text()
    report, rows = of(folder), read_metrics(folder / "metrics.jsonl")
    kept = read_metrics(folder / LOADS)
    assert [row["step"] for row in kept] == [2, 4]
    for e in report["router"]:
        for m, chosen in e["chosen"].items():
            assert sum(chosen) == pytest.approx(1, abs=1e-3)
            assert e["success"][m] == pytest.approx(1 - chosen[0], abs=1e-3)
            assert 0 <= e["entropy"][m] <= np.log(e["experts"]) + 1e-3
        load = [kept[-1][f"load/{e['layer']}/{e['group']}/{n}"] for n in range(e["experts"])]
        assert load == pytest.approx(over_even(e), abs=1e-3)
    last = [row for row in rows if "eval/loss" in row][-1]
    assert {k: v for k, v in last.items() if k.startswith("eval/router/")} == summary(report["router"])
    if experiment == "moe_token_choice":
        assert all(sum(load) > 0 and e["success"]["text"] == 1.0 for e in report["router"] for load in e["load"].values())
        assert last["eval/router/nmi"] < 1
    else:
        assert last["eval/router/nmi"] == 1.0


def test_kinds_without_logits_have_no_entropy(run):
    folder = run("trainer.max_steps=1", "router.kind=hash")
    assert all("entropy" not in e and "load" in e for e in of(folder)["router"])


def test_only_kept_rows_of_a_mixture_of_depths_count(run):
    folder = run("trainer.max_steps=1", experiment="mod_moma_4t4i")
    whole = {e["layer"]: sum(e["load"]["text"]) for e in of(folder)["router"] if e["group"] == "text"}
    assert len(set(whole.values())) == 2


def test_no_router_no_report(run):
    folder = run("trainer.max_steps=1", experiment="moe_1t1i", sheets=True)
    assert "router" not in of(folder)
    assert not (folder / LOADS).exists()
    assert not (folder / "plots/routing.png").exists()
    assert not any(key.startswith("eval/router") for row in read_metrics(folder / "metrics.jsonl") for key in row)


def test_a_run_that_goes_on_keeps_the_loads_before(run):
    run("trainer.max_steps=2", sheets=True)
    folder = run("trainer.max_steps=3", sheets=True)
    assert [row["step"] for row in read_metrics(folder / LOADS)] == [2, 3]


def test_a_report_is_json_an_entry_a_line():
    report = {"eval/loss": 1.0, "router": [{"layer": 0}, {"layer": 1}], "steps": 3}
    text = written(report)
    assert json.loads(text) == report
    assert sum('"layer"' in line for line in text.splitlines()) == 2
    assert json.loads(written({"steps": 3})) == {"steps": 3}


def test_words_of_rows_and_those_above_their_base_rate():
    tokenizer = TextTokenizer.load("starter_bpe_v1")
    v = Vocabulary.build(tokenizer.pieces, image=(16, 4))
    first = v.modality("text").first
    ids = [v.specials.bos, *(tokenizer.encode(["The dog, the unpronounceable Dog"])[0] + first).tolist(), v.specials.eos]
    tokens = torch.tensor(ids)
    rows, spelt = words_of(Seen(len(ids), tokens, torch.zeros(len(ids)), torch.zeros(len(ids)), {}), tokenizer, v)
    assert {"<bos>", "the", "dog", ",", "unpronounceable", "<eos>"} <= set(spelt)
    assert (rows >= 0).all()
    pieces = len(tokenizer.encode([" unpronounceable"])[0])
    assert (rows == spelt.index("unpronounceable")).sum() == pieces > 1
    numbers = np.repeat([0, 1, 2], [10, 10, 3])
    mine = np.zeros(23, bool)
    mine[:9] = mine[20:] = True
    assert typical(numbers, mine, ["often", "seldom", "rare"], 3) == ["often"]


@pytest.mark.slow
def test_two_ranks_report_what_one_does(small_corpus, run_root):
    found = {}
    for ranks in (1, 2):
        run = ["-m", "momafuse.train", "+experiment=moe_token_choice", *words(small_corpus, run_root), f"run.name={ranks}"]
        own = ["trainer=cpu", "trainer.global_batch=8", "trainer.micro_batch=4", "trainer.max_steps=1"]
        own += ["trainer.eval_sequences=12"]  # three micro-batches: one rank is left over
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        subprocess.run([sys.executable, *launcher, *run, *own], check=True, capture_output=True, env=os.environ)
        found[ranks] = of(run_root / str(ranks))["router"]
        assert (run_root / str(ranks) / "plots/routing.png").is_file()
    for one, two in zip(found[1], found[2], strict=True):
        assert one["load"].keys() == two["load"].keys()
        assert sum(map(sum, one["load"].values())) == sum(map(sum, two["load"].values()))
        for key in ("unused", "similarity", "explained", "divergence", "nmi"):
            assert one[key] == pytest.approx(two[key], abs=0.01), key
