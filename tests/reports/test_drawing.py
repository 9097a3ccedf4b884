"""Overlays pixel by pixel: the colour of each code's expert over its part of the picture."""

from __future__ import annotations

import numpy as np
import pytest

from momafuse.reports.drawing import CELL, GREY, INK, LUMA, SHARE, colour, in_lines, over_picture
from momafuse.routing.names import NONE, PASSED

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def mixed(pixel: np.ndarray, expert: int, experts: int) -> np.ndarray:
    brightness = (255 + sum(share * float(x) for share, x in zip(LUMA, pixel, strict=True))) / 2
    return np.round((1 - SHARE) * brightness + SHARE * np.array(colour(expert, experts)))


@pytest.mark.parametrize("n", [1, 2, 8])
def test_every_pixel_of_a_picture(n: int) -> None:
    expert = np.random.default_rng(n).integers(-1, 8, n * n)
    drawn = over_picture(PICTURE, expert, 8)
    assert drawn.shape == (256, 256, 3)
    cell = 256 // n
    for y in range(256):
        for x in range(256):
            edge = y % cell == cell - 1 or x % cell == cell - 1
            under = mixed(PICTURE[y // 4, x // 4], int(expert[y // cell * n + x // cell]), 8)
            assert (drawn[y, x] == (255 if edge else under)).all(), (y, x)


def test_what_a_layer_passes_by_is_crossed_and_else_as_it_was() -> None:
    drawn = over_picture(PICTURE, np.array([PASSED, 0, NONE, 1]), 2)
    large = PICTURE.repeat(4, 0).repeat(4, 1)
    line = np.eye(128, dtype=bool)[::-1]
    assert (drawn[:128, :128][line] == INK).all()
    assert (drawn[:128, :128][~line] == large[:128, :128][~line]).all()
    assert (drawn[130, 5] == mixed(large[130, 5], NONE, 2)).all()


def test_sides_that_are_no_multiple() -> None:
    small = PICTURE[:50, :50]
    drawn = over_picture(small, np.zeros(49, np.int64), 1)
    assert drawn.shape == (250, 250, 3)
    assert (drawn[-1] == 255).all()


@pytest.mark.parametrize(("codes", "lines", "columns"), [(1, 1, 1), (7, 1, 7), (48, 1, 48), (49, 2, 48), (100, 3, 48)])
def test_codes_in_lines(codes: int, lines: int, columns: int) -> None:
    expert = np.arange(codes) % 3
    drawn = in_lines(expert, 3)
    assert drawn.shape == (lines * CELL, columns * CELL, 3)
    for place in range(lines * columns):
        y, x = place // columns * CELL, place % columns * CELL
        inside = drawn[y : y + CELL - 1, x : x + CELL - 1]
        expected = mixed(np.full(3, 255), place % 3, 3) if place < codes else np.full(3, 255)
        assert (inside == expected).all()


@pytest.mark.parametrize("experts", [2, 8, 12, 13, 64])
def test_colours_are_told_apart(experts: int) -> None:
    colours = [colour(e, experts) for e in range(experts)]
    assert len({*colours, GREY}) == experts + 1
    assert colour(NONE, experts) == GREY
