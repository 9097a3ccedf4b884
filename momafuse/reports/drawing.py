"""Colours of experts, and pictures coloured by them: one cell for each code.

    taken by an expert     its colour over the picture, which is pale and without colours of its own: those would mix
    taken by none          grey in its stead
    passed by              the picture as it is, crossed by a line: the layer did nothing there

Shape legend: N codes of an item, in the order of its rows; H, W pixels; n = sqrt(N) cells on a side of a picture.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
import numpy.typing as npt

from momafuse.routing.names import PASSED

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]  # (H, W, 3)

# Those that are told apart side by side, by the colour-blind too (Okabe and Ito's seven, then five of Tol's); more are spread
# over the circle of hues.
_CHOSEN = [
    bytes.fromhex(c) for c in "0072b2 e69f00 009e73 d55e00 cc79a7 56b4e9 f0e442 882255 332288 999933 44aa99 661100".split()
]
GREY: Colour = (128, 128, 128)
INK: Colour = (60, 60, 60)
SHARE = 0.5  # of the colour; the rest is the picture
LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue are (ITU-R BT.601)
SIDE = 256  # pixels of a drawn picture, about
CELL = 12  # pixels of a cell without a picture
_OUTSIDE = -3  # cells behind the last code


def colour(expert: int, experts: int) -> Colour:
    """Of one among so many; grey for none (a negative number)."""
    if expert < 0:
        return GREY
    if experts <= len(_CHOSEN):
        r, g, b = _CHOSEN[expert]
        return r, g, b
    # neighbours in number lie far apart in hue; three shades, for hues alone run out
    turn = expert * (math.sqrt(5) - 1) / 2 % 1.0
    r, g, b = (round(255 * x) for x in colorsys.hsv_to_rgb(turn, 0.75, (0.95, 0.7, 0.5)[expert % 3]))
    return r, g, b


def over_picture(picture: Pixels, expert: npt.NDArray[np.int64], experts: int) -> Pixels:
    """The picture enlarged by a whole number, `expert` (N,) of its codes over it; N is a square number."""
    n = math.isqrt(len(expert))
    assert n * n == len(expert), "a square of codes"
    scale = max(1, round(SIDE / max(picture.shape[:2])))
    large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    return _cells(large, expert.reshape(n, n), experts)


def blank(side: int) -> Pixels:
    """White, of `side` cells a side: for codes that no decoder makes a picture of."""
    return np.full((side * CELL, side * CELL, 3), 255, np.uint8)


def in_lines(expert: npt.NDArray[np.int64], experts: int, columns: int = 48) -> Pixels:
    """Cells without a picture, `columns` of them in a line: of the codes of a sound, or of an item that was cut."""
    lines = -(-len(expert) // columns)
    columns = min(columns, len(expert))
    grid = np.full(lines * columns, _OUTSIDE)
    grid[: len(expert)] = expert
    white = np.full((lines * CELL, columns * CELL, 3), 255, np.uint8)
    return _cells(white, grid.reshape(lines, columns), experts)


def _cells(pixels: Pixels, grid: npt.NDArray[np.int64], experts: int) -> Pixels:
    """`grid` (rows, columns) of experts over pixels (H, W, 3)."""
    drawn = pixels.copy()
    ys, xs = (
        np.linspace(0, size, count + 1).round().astype(int) for size, count in zip(pixels.shape, grid.shape, strict=False)
    )
    for (row, column), expert in np.ndenumerate(grid):
        cell = drawn[ys[row] : ys[row + 1], xs[column] : xs[column + 1]]
        if expert == PASSED:
            _cross(cell)
        elif expert != _OUTSIDE:
            brightness = (255 + cell @ np.array(LUMA))[..., None] / 2  # half way to white, on which words lie
            cell[:] = ((1 - SHARE) * brightness + SHARE * np.array(colour(int(expert), experts))).round()
            cell[-1, :] = cell[:, -1] = 255  # cells of one colour stay apart
    return drawn


def _cross(cell: Pixels) -> None:
    """A line from the lower left to the upper right corner."""
    height, width = cell.shape[:2]
    at = np.arange(max(height, width))
    cell[height - 1 - at * height // len(at), at * width // len(at)] = INK
