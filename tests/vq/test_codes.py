"""Which code is nearest, against plain loops over vectors and codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momafuse.vq.codes import CodeTable, nearest, place


def unit(count: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=-1)


@pytest.mark.parametrize("space", ["sphere", "plane", "cube"])
def test_nearest_is_the_code_of_least_distance(space: str) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codes = torch.randn(1500, 6, generator=generator), torch.randn(37, 6, generator=generator)
    codes = place(codes, space)  # type: ignore[arg-type]
    placed = place(vectors, space).double()  # type: ignore[arg-type]
    expected = [min(range(37), key=lambda i: float((placed[t] - codes[i].double()).norm())) for t in range(1500)]
    assert CodeTable(codes, space).nearest(vectors).tolist() == expected  # type: ignore[arg-type]


def test_nearest_takes_the_lowest_of_equal_codes() -> None:
    codes = unit(4, 5, 0)[[2, 1, 2, 3]]
    for space in ("sphere", "plane"):
        assert nearest(codes, codes, space).tolist() == [0, 1, 0, 3]  # type: ignore[arg-type]


def test_places() -> None:
    vectors = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(place(vectors, "sphere").norm(dim=-1), torch.ones(50))
    assert torch.equal(place(vectors, "plane"), vectors)
    assert float(place(vectors, "cube").abs().max()) <= 1
