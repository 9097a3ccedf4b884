"""A checkpoint of format 1, saved when it was new, is read by every later version."""

from __future__ import annotations

import json

import torch

from momafuse.checkpoint import store
from momafuse.world import World
from tests.checkpoint.format_1 import DATA, tiny
from tests.checkpoint.ranks import held


def test_a_checkpoint_of_format_1_is_read():
    checkpoint = store.find(DATA)
    assert json.loads((checkpoint / store.MARKER).read_text())["format"] == 1
    assert store.read_state(checkpoint) == {"step": 1, "tokens": 64}
    model, optimizer = tiny(seed=5)
    expected = json.loads((DATA / "expected.json").read_text())
    assert held(model, optimizer) != expected
    store.load(checkpoint, model, [optimizer], World(0, 1, torch.device("cpu"), None, None))
    assert held(model, optimizer) == expected
