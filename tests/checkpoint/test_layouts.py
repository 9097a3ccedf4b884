"""A checkpoint of any number of ranks is read at any other: the same parameters and optimizer state, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from momafuse.checkpoint import store
from momafuse.checkpoint.saving import Keep, Saver
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.checkpoint.upcycling import upcycle
from momafuse.parallel.sharding import fill
from momafuse.world import World
from tests.checkpoint.ranks import UPCYCLING, built, held, learn

ROOT = Path(__file__).parents[2]
ALONE = World(0, 1, torch.device("cpu"), None, None)


def at(ranks: int, out: Path, member: str, *words: str) -> dict[str, dict[str, str]]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*torchrun, "-m", "tests.checkpoint.ranks", str(out), member, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, str]] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("member", ["moma_7t1i", pytest.param("mod_moma_4t4i", marks=pytest.mark.slow)])
def test_saved_at_one_number_of_ranks_and_loaded_at_others(tmp_path, member):
    a, b, c = (tmp_path / name for name in "abc")
    two = at(2, tmp_path / "2.json", member, f"save={a}")
    four = at(4, tmp_path / "4.json", member, f"load={a}", f"save={b}")
    model, optimizer = built(member, ALONE, seed=7)
    store.load(store.find(b), model, [optimizer], ALONE)
    one = held(model, optimizer)
    with Saver(c, Keep(1), ALONE) as saver:
        saver.save(1, model, [optimizer], {}, "a: 1\n")
    again = at(2, tmp_path / "2.json", member, f"load={c}", f"load={b}", f"full={a}:1", f"load={a}")

    saved = two[f"save={a}"]
    learnt = {key.removesuffix(" exp_avg") for key in saved if key.endswith(" exp_avg")}
    paths = {key for key in saved if " " not in key}
    assert learnt == {path for path in paths if ".experts." in path} | {"head.weight"}, "what is frozen has no state"
    assert learnt < paths
    for found in (four[f"load={a}"], one, again[f"load={c}"], again[f"load={b}"]):
        assert found == saved

    said = again[f"full={a}:1 said"]
    assert said[0] == said[1]
    assert "step_00000002: cannot be written (rank 1: " in said[0]
    assert said[0].endswith("older checkpoints are untouched")
    assert again[f"load={a}"] == saved
    assert [f.name for f in a.iterdir() if f.name != "latest"] == ["step_00000001"]
    assert store.read_state(store.find(a)) == {"ranks": 2}


def test_a_seed_of_any_number_of_ranks_is_upcycled_at_any_other(tmp_path):
    """Weights, noise on copies, redrawn columns and moments: equal to the last bit."""
    at(2, tmp_path / "out.json", "moe_1t1i", f"save={tmp_path / 'two'}")
    seed, of_seed = built("moe_1t1i", ALONE, seed=0)
    learn(seed, of_seed)
    with Saver(tmp_path / "one", Keep(1), ALONE) as saver:
        saver.save(1, seed, [of_seed], {"ranks": 1}, "a: 1\n")
    found = []
    for folder in ("one", "two"):
        model, optimizer = built("moma_4t4i", ALONE, seed=0)
        upcycle(model, optimizer, StoredTensors(store.find(tmp_path / folder)), UPCYCLING, 0, fill)
        found.append(held(model, optimizer))
    words = [f"upcycle={tmp_path / folder}" for folder in ("one", "two")]
    sharded = at(2, tmp_path / "out.json", "moma_4t4i", *words)
    assert found[0] == found[1] == sharded[words[0]] == sharded[words[1]]
    assert any(key.endswith("exp_avg") for key in found[0])
