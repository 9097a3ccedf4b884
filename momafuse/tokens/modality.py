"""A modality as data: a name, a contiguous range of ids, what an item of it is, and the specials that frame one.

An item is a picture, or an utterance: what stands between two frames. Items of a fixed number of tokens (`block`) are never
cut; those of any number (`block` 0), like text, may be cut by a sequence's end and go on in the next one. Text is a modality
without a frame. Does not know how ids are made (text.py, codecs) nor what models do with them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Modality:
    """`first` and `count` span its ids; `block` is the length of one item in tokens (0: any length); `begin` and `end` are
    the specials around an item, or None."""

    name: str
    first: int
    count: int
    block: int = 0
    begin: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        if self.first < 0 or self.count < 1 or self.block < 0:
            raise ValueError(f"modality {self.name}: first={self.first}, count={self.count}, block={self.block} is no range")

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    @property
    def frame(self) -> tuple[int, ...]:
        """The specials around an item: (begin, end), or none."""
        return () if self.begin is None or self.end is None else (self.begin, self.end)
