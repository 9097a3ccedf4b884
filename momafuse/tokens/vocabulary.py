"""One id space for all modalities; which id is what is data, so that a released layout is one instance of it.

The layout that momafuse makes: specials 0..7, image codes from 8, text pieces after them. The released Chameleon layout
(codes 4..8195, end of image 8196, begin of image 8197, text and the other specials in the rest; arXiv 2405.09818 and its
released vocabulary) is `Vocabulary.chameleon()`. Ids in no modality's range (specials among them) belong to text:
`begin_image`, `end_image`, `bos`, `eos` and `pad` are text.

Does not encode text (text.py) nor pictures (vision/).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from momafuse.tokens.modality import Modality

TEXT = "text"
N_SPECIALS = 8  # five in use; the rest keeps ids stable when one is added


@dataclass(frozen=True)
class Specials:
    pad: int
    bos: int
    eos: int
    begin_image: int
    end_image: int


@dataclass(frozen=True)
class Vocabulary:
    """`modalities[0]` is text and takes every id that no other modality claims; the order gives modality numbers."""

    size: int
    specials: Specials
    modalities: tuple[Modality, ...]

    def __post_init__(self) -> None:
        if not self.modalities or self.modalities[0].name != TEXT:
            raise ValueError("vocabulary: the first modality must be text")
        claimed = np.zeros(self.size, dtype=bool)
        for m in self.modalities:
            if m.last >= self.size:
                raise ValueError(f"vocabulary: {m.name} ends at id {m.last}, but size={self.size}")
            if claimed[m.first : m.last + 1].any():
                raise ValueError(f"vocabulary: the ids of {m.name} overlap another modality's")
            claimed[m.first : m.last + 1] = True
        for name, i in asdict(self.specials).items():
            if not 0 <= i < self.size or any(m.first <= i <= m.last for m in self.modalities):
                raise ValueError(f"vocabulary: special {name}={i} is out of range or inside a modality's ids")

    @classmethod
    def build(cls, image_codes: int, image_block: int, text_pieces: int) -> Vocabulary:
        """The layout that momafuse makes for a new tokenizer pair; counts in ids, `image_block` in tokens a picture."""
        image = Modality("image", N_SPECIALS, image_codes, image_block)
        text = Modality(TEXT, image.last + 1, text_pieces)
        return cls(text.last + 1, Specials(0, 1, 2, 3, 4), (text, image))

    @classmethod
    def chameleon(cls) -> Vocabulary:
        """The id layout of the released Chameleon weights: 65,536 ids, 1,024 codes a picture."""
        return cls(65_536, Specials(1, 0, 2, 8197, 8196), (Modality(TEXT, 8198, 57_338), Modality("image", 4, 8192, 1024)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.modalities)

    def modality(self, name: str) -> Modality:
        return self.modalities[self.names.index(name)]

    def modality_of_ids(self) -> npt.NDArray[np.uint8]:
        """(size,) uint8: the modality number of every id; the specials are text (0)."""
        table = np.zeros(self.size, dtype=np.uint8)
        for number, m in enumerate(self.modalities):
            table[m.first : m.last + 1] = number
        return table

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Vocabulary:
        return cls(d["size"], Specials(**d["specials"]), tuple(Modality(**m) for m in d["modalities"]))
