"""A modality: a name and a contiguous range of ids, and whether its tokens come in blocks of a fixed length.

Does not know how ids are made (text.py, vision/) nor what models do with them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Modality:
    """`first` and `count` span its ids; `block` is the length of one item in tokens (0: any length)."""

    name: str
    first: int
    count: int
    block: int = 0

    def __post_init__(self) -> None:
        if self.first < 0 or self.count < 1 or self.block < 0:
            raise ValueError(f"modality {self.name}: first={self.first}, count={self.count}, block={self.block} is no range")

    @property
    def last(self) -> int:
        return self.first + self.count - 1
