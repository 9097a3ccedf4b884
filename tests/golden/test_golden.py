"""The golden losses of every member: within 1e-4 anywhere, to the last digit where they were made."""

from __future__ import annotations

import json

import pytest

from tests.golden.golden import HERE, MEMBERS, STEPS, golden_losses, machine

STORED = json.loads((HERE / "losses.json").read_text())


@pytest.mark.parametrize("steps", [15, pytest.param(STEPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*MEMBERS, "moma_4t4i noise"])
def test_the_first_losses_are_the_stored_ones(name, steps):
    experiment, _, noise = name.partition(" ")
    same = STORED["machine"] == machine()
    losses = golden_losses(experiment, steps if same else 10, noise=bool(noise))
    stored = STORED["losses"][name]
    assert losses[:10] == pytest.approx(stored[:10], abs=1e-4)
    if same:
        assert losses == stored[:steps]
