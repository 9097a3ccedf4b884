"""How codes move, against plain loops."""

from __future__ import annotations

import pytest
import torch

from momafuse.vq.codebooks import Codebook, EMACodebook, LearnedCodebook, SimCodebook, kmeans, uses
from momafuse.vq.codes import nearest, place
from tests.vq.quantizers import EMA, PLAIN, SIM, config
from tests.vq.test_codes import unit


def ema(count: int, dim: int, uses: float, **changed: object) -> EMACodebook:
    book = EMACodebook(count, dim, config(EMA, **changed))
    book.begin(uses, place(unit(count, dim, 0), "sphere"))
    return book


def restarted(book: Codebook, vectors: torch.Tensor) -> int:
    """Dead codes onto vectors from the last on; how many."""
    dead = book.doomed(len(vectors))
    book.restart(dead, vectors.flip(0)[: len(dead)])
    return len(dead)


@pytest.mark.parametrize("space", ["sphere", "plane"])
def test_the_moving_average_follows_the_equation(space: str) -> None:
    decay, start = 0.9, unit(5, 3, 0)
    book = EMACodebook(5, 3, config(EMA, space=space, restart_below=0.0))
    book.begin(2.0, start)
    counts = [2.0] * 5
    sums = [[2.0 * float(c) for c in code] for code in start]
    for step in range(3):
        vectors = unit(7, 3, 10 + step)
        index = nearest(vectors, book.table())
        book.update(uses(vectors, index, 5))
        for i in range(5):
            chosen = [vectors[t] for t in range(7) if int(index[t]) == i]
            counts[i] = decay * counts[i] + (1 - decay) * len(chosen)
            for d in range(3):
                sums[i][d] = decay * sums[i][d] + (1 - decay) * sum(float(v[d]) for v in chosen)
    torch.testing.assert_close(book.counts, torch.tensor(counts))
    lengths = [sum(x * x for x in row) ** 0.5 if space == "sphere" else n for row, n in zip(sums, counts, strict=True)]
    expected = [[s / length for s in row] for row, length in zip(sums, lengths, strict=True)]
    torch.testing.assert_close(book.table(), torch.tensor(expected))


def test_dead_codes_restart_at_vectors_of_the_batch() -> None:
    book = ema(6, 4, 0.5, code_decay=0.5, restart_below=0.6)
    vectors = unit(9, 4, 1)
    served = torch.tensor([0, 0, 0, 2, 2, 2, 5, 5, 5])
    before = book.table().clone()
    assert restarted(book, vectors) == 0, "none is dead before any was passed over"
    for _ in range(2):
        book.update(uses(vectors, served, 6))
    alive = book.table().clone()
    assert restarted(book, vectors) == 3
    for i in (0, 2, 5):
        assert torch.equal(book.table()[i], alive[i])
        assert not torch.equal(alive[i], before[i])
    places = [[t for t in range(9) if torch.equal(book.table()[i], vectors[t])] for i in (1, 3, 4)]
    assert all(len(place) == 1 for place in places)
    assert len({place[0] for place in places}) == 3
    assert restarted(book, vectors) == 0, "a restarted code gets time"


def test_restart_without_enough_vectors_moves_as_many_as_there_are() -> None:
    book = ema(8, 4, 1.0, restart_below=2.0)
    book.counts.fill_(1.0)
    assert restarted(book, unit(3, 4, 1)) == 3


def test_learned_codes_are_parameters_that_restart_too() -> None:
    book = LearnedCodebook(6, 4, config(PLAIN, restart_below=0.5, code_decay=0.0))
    book.begin(1.0, None)
    assert book.table().abs().max().item() <= 1 / 6
    book.update(uses(unit(4, 4, 0), torch.tensor([1, 1, 1, 1]), 6))
    vectors = unit(4, 4, 1)
    assert restarted(book, vectors) == 4, "five are dead, the batch has four vectors"
    assert sum(bool((book.codes == v).all(dim=1).any()) for v in vectors) == 4
    assert [name for name, _ in book.named_parameters()] == ["codes"]


def test_one_chosen_code_of_sim_moves_all() -> None:
    torch.manual_seed(0)
    book = SimCodebook(6, 4, config(SIM))
    before = book.table().detach().clone()
    book.table()[2].sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        book.basis -= 0.1 * book.basis.grad
    assert ((book.table() - before).abs().sum(dim=1) > 1e-4).all()
    assert not book.restarts


def test_kmeans_finds_separate_clusters() -> None:
    noise = 0.05 * torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(torch.eye(6).repeat(100, 1) + noise, dim=-1)
    found = kmeans(vectors, 12, 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(12))
    assert float((vectors @ found.T).amax(dim=1).min()) > 0.95
    far = 5 * vectors
    in_plane = kmeans(far, 12, 10, torch.Generator().manual_seed(0), "plane")
    assert float(torch.cdist(far, in_plane).amin(dim=1).max()) < 1.5


def test_kmeans_needs_as_many_vectors_as_centres() -> None:
    with pytest.raises(AssertionError):
        kmeans(unit(3, 4, 0), 4, 1, torch.Generator())
