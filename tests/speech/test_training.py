"""Excerpts hold what the sounds hold; their loss. Runs: tests/tokenizers."""

from __future__ import annotations

import torch

from momafuse.speech.mel import BANDS, FLOOR
from momafuse.speech.training import Excerpts, Sound, frame_losses


def test_the_loss_is_the_mean_distance_of_each_excerpt() -> None:
    x, y = torch.randn(2, 3, BANDS, 8, generator=torch.Generator().manual_seed(0))
    found = frame_losses(x, y)["frames"]
    for n in range(3):
        assert abs(float(found[n]) - float((x[n] - y[n]).abs().sum()) / (BANDS * 8)) < 1e-5


def test_excerpts_come_from_everywhere_in_the_sounds() -> None:
    """Frames are numbered in the first band, so that an excerpt tells where it was taken."""
    lengths = (8, 400)
    numbered = [Sound(torch.arange(1.0, n + 1).expand(BANDS, n), heldout=False) for n in lengths]
    excerpts = Excerpts(12, 0, numbered)
    assert torch.equal(excerpts.batch([7, 8]), torch.cat([excerpts.batch([7]), excerpts.batch([8])])), "by number alone"
    seen: list[int] = []
    for first in range(0, 1600, 8):
        for excerpt in excerpts.batch(range(first, first + 8))[:, 0]:
            kept = excerpt[excerpt > FLOOR]
            assert len(kept) == 8 or len(kept) >= 42, "a short sound is whole, a long one fills all but an eighth"
            assert torch.equal(kept.diff(), torch.ones(len(kept) - 1)), "one piece"
            seen += kept.int().tolist()
    counts = torch.bincount(torch.tensor(seen), minlength=401)[1:]
    assert int(counts.min()) > 0, "every frame"
    assert float(counts[60:340].max() / counts[60:340].min()) < 2.2, "alike, away from the ends"


def test_a_sound_of_twice_the_weight_is_taken_twice_as_often() -> None:
    sounds = [
        Sound(torch.full((BANDS, 100), float(n + 1)), heldout=False, weight=weight) for n, weight in enumerate((1.0, 2.0))
    ]
    taken = Excerpts(5, 0, sounds).batch(range(900))[:, 0].amax(dim=1)
    assert 1.6 < float((taken == 2).sum() / (taken == 1).sum()) < 2.5
