"""The quantizer against plain loops over vectors and codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momafuse.vq.quantizer import EMAQuantizer, nearest, spherical_kmeans, straight_through


def unit(count: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=-1)


def test_nearest_is_the_code_of_least_distance() -> None:
    vectors, codes = unit(1500, 6, 0), unit(37, 6, 1)
    expected = [min(range(37), key=lambda i: float((vectors[t].double() - codes[i].double()).norm())) for t in range(1500)]
    assert nearest(vectors, codes).tolist() == expected


def test_nearest_takes_the_lowest_of_equal_codes() -> None:
    codes = unit(4, 5, 0)[[2, 1, 2, 3]]
    assert nearest(codes, codes).tolist() == [0, 1, 0, 3]


def test_straight_through_has_the_codes_value_and_the_inputs_gradient() -> None:
    vectors, quantized = unit(3, 4, 0).requires_grad_(), unit(3, 4, 1).requires_grad_()
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    out = straight_through(vectors, quantized)
    torch.testing.assert_close(out, quantized)
    (out * weights).sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad, weights, rtol=0, atol=0)
    assert quantized.grad is None


def test_update_follows_the_equation() -> None:
    codes, decay = unit(5, 3, 0), 0.9
    quantizer = EMAQuantizer(codes, decay, restart_below=0.0, uses=2.0)
    counts = [2.0] * 5
    sums = [[2.0 * float(c) for c in code] for code in codes]
    for step in range(3):
        vectors = unit(7, 3, 10 + step)
        index = nearest(vectors, quantizer.codes)
        quantizer.update(vectors, index)
        for i in range(5):
            chosen = [vectors[t] for t in range(7) if int(index[t]) == i]
            counts[i] = decay * counts[i] + (1 - decay) * len(chosen)
            for d in range(3):
                sums[i][d] = decay * sums[i][d] + (1 - decay) * sum(float(v[d]) for v in chosen)
    torch.testing.assert_close(quantizer.counts, torch.tensor(counts))
    expected = [[s / sum(x * x for x in row) ** 0.5 for s in row] for row in sums]
    torch.testing.assert_close(quantizer.codes, torch.tensor(expected))


def test_dead_codes_restart_at_vectors_of_the_batch() -> None:
    quantizer = EMAQuantizer(unit(6, 4, 0), 0.5, restart_below=0.3, uses=1.0)
    vectors = unit(9, 4, 1)
    served = torch.tensor([0, 0, 0, 2, 2, 2, 5, 5, 5])
    before = quantizer.codes.clone()
    assert quantizer.restart(vectors, torch.Generator()) == 0, "none is dead before any was passed over"
    for _ in range(2):
        quantizer.update(vectors, served)
    alive = quantizer.codes.clone()
    assert quantizer.restart(vectors, torch.Generator().manual_seed(0)) == 3
    for i in (0, 2, 5):
        assert torch.equal(quantizer.codes[i], alive[i])
        assert not torch.equal(alive[i], before[i])
    places = [[t for t in range(9) if torch.equal(quantizer.codes[i], vectors[t])] for i in (1, 3, 4)]
    assert all(len(place) == 1 for place in places)
    assert len({place[0] for place in places}) == 3
    assert quantizer.restart(vectors, torch.Generator()) == 0, "a restarted code gets time"


def test_restart_without_enough_vectors_moves_as_many_as_there_are() -> None:
    quantizer = EMAQuantizer(unit(8, 4, 0), 0.5, restart_below=2.0, uses=1.0)
    assert quantizer.restart(unit(3, 4, 1), torch.Generator()) == 3


def test_kmeans_finds_separate_clusters() -> None:
    centres = torch.eye(6)
    noise = 0.05 * torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(centres.repeat(100, 1) + noise, dim=-1)
    found = spherical_kmeans(vectors, 12, 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(12))
    assert float((vectors @ found.T).amax(dim=1).min()) > 0.95


def test_kmeans_needs_as_many_vectors_as_centres() -> None:
    with pytest.raises(AssertionError):
        spherical_kmeans(unit(3, 4, 0), 4, 1, torch.Generator())
