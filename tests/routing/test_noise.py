"""Router noise: keyed, reproducible, and logistic."""

from __future__ import annotations

import math

import numpy as np
import torch

from momafuse.routing.noise import logistic_noise
from tests.batches import make_batch

MASK = (1 << 64) - 1


def mix(x: int) -> int:
    """splitmix64's finaliser on Python integers."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_agrees_with_the_hash_on_python_integers():
    batch = make_batch(2, (2, 1), first_sequence=5)
    noise = logistic_noise(batch, seed=7, step=11, layers=2, experts=3)
    assert noise.shape == (2, 6, 3)
    assert noise.dtype == torch.float32
    for layer in range(2):
        for row in range(6):
            for expert in range(3):
                key = mix(mix(mix(mix(mix(7) ^ 11) ^ layer) ^ (5 + row // 3)) ^ (row % 3))
                u = ((mix(key ^ expert) >> 12) + 0.5) * 2.0**-52
                assert math.isclose(float(noise[layer, row, expert]), math.log(u) - math.log1p(-u), rel_tol=1e-6, abs_tol=1e-7)


def test_a_sequence_has_the_same_noise_in_any_micro_batch():
    whole = logistic_noise(make_batch(4, (3, 5)), seed=1, step=2, layers=3, experts=4)
    part = logistic_noise(make_batch(2, (3, 5), first_sequence=2), seed=1, step=2, layers=3, experts=4)
    assert torch.equal(whole[:, 16:], part)


def test_every_key_matters():
    batch = make_batch(4, (8, 8))
    draws = [logistic_noise(batch, seed=s, step=t, layers=2, experts=2).flatten() for s, t in [(0, 1), (1, 0), (0, 2), (1, 1)]]
    draws += [logistic_noise(make_batch(4, (8, 8), first_sequence=4), seed=0, step=1, layers=2, experts=2).flatten()]
    values = torch.cat(draws)
    assert values.unique().numel() == values.numel()


def test_the_distribution_is_standard_logistic():
    noise = logistic_noise(make_batch(64, (32, 32)), seed=0, step=0, layers=2, experts=8).flatten().double().numpy()
    n = len(noise)
    empirical = np.arange(1, n + 1) / n
    distance = np.abs(empirical - 1 / (1 + np.exp(-np.sort(noise)))).max()
    assert distance < 1.63 / math.sqrt(n)  # Kolmogorov-Smirnov at the 1 % level; the draw is fixed
    by_expert = noise.reshape(-1, 8)
    correlation = np.corrcoef(by_expert.T) - np.eye(8)
    assert np.abs(correlation).max() < 5 / math.sqrt(len(by_expert))
