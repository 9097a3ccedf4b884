"""Items that occur again are encoded once, to the same documents; one broken item rejects only what holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.data.items import Encoded, ItemEncoder
from momafuse.data.sources import Item, Raw


class Letters:
    """Items are bytes, codes their values; what holds `!` cannot be used."""

    fingerprint, codes, block = "0", 256, 0

    def __init__(self) -> None:
        self.encoded: list[bytes] = []

    def read(self, data: bytes) -> bytes:
        if b"!" in data:
            raise ValueError("no letters")
        return data

    def vary(self, item: bytes, key: str, variant: int, texts: Sequence[str]) -> bytes:
        return item if variant == 0 else item + key.encode() + bytes([variant])

    def encode(self, items: Sequence[bytes]) -> list[Any]:
        self.encoded += items
        return [np.frombuffer(item, np.uint8).astype(np.int64) for item in items]

    def look(self, item: bytes) -> bytes:
        return item[:1] * 32

    decode = file = drawn = NotImplemented


pieces = st.sampled_from([b"a", b"b", b"cc", b"!"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(pieces, max_size=3)), max_size=12), st.integers(1, 2), st.integers(1, 3))
def test_every_document_has_what_it_would_have_alone(
    documents: list[tuple[bool, list[bytes]]], variants: int, threads: int
) -> None:
    items = [
        Item(f"k{n}", "train" if train else "validation", tuple(Raw(piece, None) for piece in held))
        for n, (train, held) in enumerate(documents)
    ]
    together, codec = Encoded(), Letters()
    ItemEncoder(codec, items, variants, together, threads, "cpu", looks=True).run("image")
    for n, item in enumerate(items):
        alone = Encoded()
        ItemEncoder(Letters(), [item], variants, alone, 1, "cpu", looks=True).run("image")
        assert together.rejects.get(n) == alone.rejects.get(0)
        if n not in together.rejects:
            assert together.look(n, item) == alone.look(0, item)
            mine = {key[1:]: codes.tolist() for key, codes in together.codes.items() if key[0] == n}
            assert mine == {key[1:]: codes.tolist() for key, codes in alone.codes.items()}
    if variants == 1 and not together.rejects:
        assert len(codec.encoded) == len(set(codec.encoded))
