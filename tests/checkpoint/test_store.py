"""The checkpoint store: what is complete, what is damaged, what stays."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from momafuse.checkpoint import saving, store
from momafuse.checkpoint.saving import Keep, Saver, tidy
from momafuse.config.compose import compose
from momafuse.errors import UserError
from momafuse.training.optimizer import build_optimizer
from momafuse.world import World
from tests.batches import make_model

ALONE = World(0, 1, torch.device("cpu"), None, None)


@pytest.fixture
def trained():
    model = make_model({"text": 2, "image": 1})
    optimizer = build_optimizer(model, compose(["size=micro"]).config.optim)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    return model, optimizer


TWO = Keep(2)


def save(root, step, trained, keep=TWO):
    with Saver(root, keep, ALONE) as saver:
        saver.save(step, trained[0], [trained[1]], {"step": step}, "a: 1\n")
    return root / store.step_name(step)


def test_a_round_trip_restores_weights_and_optimizer(tmp_path, trained):
    model, optimizer = trained
    path = save(tmp_path, 7, trained)
    other = make_model({"text": 2, "image": 1}, seed=5)
    fresh = build_optimizer(other, compose(["size=micro"]).config.optim)
    store.load(path, other, [fresh], ALONE)
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        for key, value in optimizer.state[a].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(fresh.state[b][key])), (name, key)
    assert store.read_state(path) == {"step": 7}
    assert (tmp_path / "latest").read_text() == "step_00000007"
    assert (path / "config.yaml").read_text() == "a: 1\n"
    weights_only = make_model({"text": 2, "image": 1}, seed=6)
    store.load(path, weights_only, [], ALONE)
    assert torch.equal(weights_only.head.weight, model.head.weight)


def test_old_checkpoints_go(tmp_path, trained):
    for step in (1, 2, 3):
        save(tmp_path, step, trained)
    assert [c.name for c in store.complete(tmp_path)] == ["step_00000002", "step_00000003"]


def test_checkpoints_at_multiples_of_keep_every_stay(tmp_path, trained):
    for step in range(2, 18, 2):
        save(tmp_path, step, trained, Keep(2, 6))
    assert [c.name for c in store.complete(tmp_path)] == [store.step_name(step) for step in (6, 12, 14, 16)]


def test_an_unfinished_checkpoint_does_not_count(tmp_path, trained):
    save(tmp_path, 1, trained)
    newer = save(tmp_path, 2, trained)
    (newer / store.MARKER).unlink()
    assert store.latest(tmp_path).name == "step_00000001"
    (tmp_path / ".step_00000003.partial").mkdir()
    assert store.latest(tmp_path).name == "step_00000001"
    assert save(tmp_path, 3, trained).is_dir()


def test_a_latest_that_points_nowhere_does_not_matter(tmp_path, trained):
    save(tmp_path, 1, trained)
    (tmp_path / "latest").write_text("step_00000099")
    assert store.latest(tmp_path).name == "step_00000001"
    [line] = tidy(tmp_path)
    assert line.endswith("latest named step_00000099; it now names step_00000001, the newest complete checkpoint")
    assert tidy(tmp_path) == []
    (tmp_path / "latest").unlink()
    assert "named nothing" in tidy(tmp_path)[0]


def test_what_was_not_saved_to_its_end_is_cleared_away(tmp_path, trained):
    assert tidy(tmp_path / "nothing yet") == []
    save(tmp_path, 1, trained)
    partial = tmp_path / ".step_00000002.partial"
    partial.mkdir()
    (partial / "__0_0.distcp").write_bytes(b"half")
    assert tidy(tmp_path) == ["step_00000002 was not saved to its end and is dropped"]
    assert not partial.exists()
    assert store.read_state(store.latest(tmp_path)) == {"step": 1}


def test_find_takes_a_run_its_checkpoints_or_one_of_them(tmp_path, trained):
    path = save(tmp_path / "checkpoints", 1, trained)
    assert store.find(tmp_path) == store.find(tmp_path / "checkpoints") == store.find(path) == path
    with pytest.raises(UserError, match="no complete checkpoint"):
        store.find(tmp_path / "nowhere")


@pytest.mark.parametrize("file", [".metadata", "state.json", "config.yaml", "__0_0.distcp"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found_and_named(tmp_path, trained, file, damage):
    path = save(tmp_path, 1, trained)
    victim = path / file
    data = bytearray(victim.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif damage == "truncate":
        victim.write_bytes(data[:-1])
    else:
        victim.unlink()
    expected = {"flip": "is corrupt", "truncate": "is truncated", "remove": "is missing"}[damage]
    with pytest.raises(UserError, match=rf"{file} {expected}.*delete this folder"):
        store.read_state(path)


def test_another_format_is_refused(tmp_path, trained):
    path = save(tmp_path, 1, trained)
    marker = json.loads((path / store.MARKER).read_text())
    (path / store.MARKER).write_text(json.dumps(marker | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        store.read_state(path)


def test_a_folder_that_cannot_be_written_leaves_the_older_one(tmp_path, trained, monkeypatch):
    save(tmp_path, 1, trained)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "dcp_save", full)
    for free, said in (
        (5 * 2**30, r"No space left on device\); older"),
        (29_000_000, r"device\); its disk has 29.0 MB left; older"),
    ):
        monkeypatch.setattr(store.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(UserError, match=said):
            save(tmp_path, 2, trained)
    assert store.latest(tmp_path).name == "step_00000001"
    assert store.read_state(store.latest(tmp_path)) == {"step": 1}


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path, trained):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"step_00000002: cannot be written \(.*; older checkpoints are untouched"):
        save(tmp_path / "file" / "checkpoints", 2, trained)
