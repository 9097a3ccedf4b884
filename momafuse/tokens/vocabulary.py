"""One id space for all modalities: an ordered list of them, and which id is what is data.

The layout that momafuse makes: specials first (0..7 with up to two framed modalities), the codes of each modality, text pieces
after them. The released Chameleon layout (codes 4..8195, end of image 8196, begin of image 8197, text and the other specials in
the rest; arXiv 2405.09818 and its released vocabulary) is `Vocabulary.chameleon()`. Ids in no modality's range (specials among
them) belong to text: `bos`, `eos`, `pad` and the frames of items are text.

Does not encode text (text.py) nor anything else (vision/).
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from momafuse.tokens.modality import Modality

TEXT = "text"
N_SPECIALS = 8  # a multiple of it; the rest keeps ids stable when one is added


@dataclass(frozen=True)
class Specials:
    """Those of documents; the frames of items stand with their modality."""

    pad: int
    bos: int
    eos: int


@dataclass(frozen=True)
class Vocabulary:
    """`modalities[0]` is text and takes every id that no other modality claims; the order gives modality numbers."""

    size: int
    specials: Specials
    modalities: tuple[Modality, ...]

    def __post_init__(self) -> None:
        if not self.modalities or self.modalities[0].name != TEXT:
            raise ValueError("vocabulary: the first modality must be text")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"vocabulary: two modalities of one name in {', '.join(self.names)}")
        claimed = np.zeros(self.size, dtype=bool)
        for m in self.modalities:
            if m.last >= self.size:
                raise ValueError(f"vocabulary: {m.name} ends at id {m.last}, but size={self.size}")
            if claimed[m.first : m.last + 1].any():
                raise ValueError(f"vocabulary: the ids of {m.name} overlap another modality's")
            claimed[m.first : m.last + 1] = True
        for name, i in self.named_specials().items():
            if not 0 <= i < self.size or any(m.first <= i <= m.last for m in self.modalities):
                raise ValueError(f"vocabulary: special {name}={i} is out of range or inside a modality's ids")

    @classmethod
    def build(cls, text_pieces: int, **others: tuple[int, int]) -> Vocabulary:
        """The layout that momafuse makes for new tokenizers. Each other modality by its name: how many codes, and how many
        tokens an item has (0: any number); their order is that of modality numbers, after text."""
        pad, bos, eos, frames = 0, 1, 2, 3
        first = -(-(frames + 2 * len(others)) // N_SPECIALS) * N_SPECIALS
        modalities = []
        for begin, (name, (codes, block)) in zip(itertools.count(frames, 2), others.items(), strict=False):
            modalities.append(Modality(name, first, codes, block, begin, begin + 1))
            first += codes
        text = Modality(TEXT, first, text_pieces)
        return cls(text.last + 1, Specials(pad, bos, eos), (text, *modalities))

    @classmethod
    def chameleon(cls) -> Vocabulary:
        """The id layout of the released Chameleon weights: 65,536 ids, 1,024 codes a picture."""
        image = Modality("image", 4, 8192, 1024, begin=8197, end=8196)
        return cls(65_536, Specials(1, 0, 2), (Modality(TEXT, 8198, 57_338), image))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.modalities)

    def modality(self, name: str) -> Modality:
        return self.modalities[self.names.index(name)]

    def named_specials(self) -> dict[str, int]:
        """Every special by its name: pad, bos, eos, and begin_NAME and end_NAME of each framed modality."""
        named = asdict(self.specials)
        for m in self.modalities:
            named |= zip((f"begin_{m.name}", f"end_{m.name}"), m.frame, strict=False)
        return named

    def modality_of_ids(self) -> npt.NDArray[np.uint8]:
        """(size,) uint8: the modality number of every id; the specials are text (0)."""
        table = np.zeros(self.size, dtype=np.uint8)
        for number, m in enumerate(self.modalities):
            table[m.first : m.last + 1] = number
        return table

    def to_dict(self) -> dict[str, Any]:
        """As manifests hold it."""
        ranges = [{"name": m.name, "first": m.first, "count": m.count, "block": m.block} for m in self.modalities]
        return {"size": self.size, "specials": self.named_specials(), "modalities": ranges}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Vocabulary:
        specials = d["specials"]
        framed = [
            Modality(**m, begin=specials.get(f"begin_{m['name']}"), end=specials.get(f"end_{m['name']}"))
            for m in d["modalities"]
        ]
        return cls(d["size"], Specials(*(specials[name] for name in ("pad", "bos", "eos"))), tuple(framed))
