"""The id layout that a `tokenizer.json` names: codes by number, specials, and text in the rest.

Text is the longest run of ids that holds no code, no frame, no pad, bos or eos; of a file without codes, what follows
`<momafuse:text>`. Codes may lie in any order within their range, as in Chameleon's released file: an id stands for a place
of the range, and `codes` says which code of the tokenizer of images that place is. Names are in names.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from momafuse.errors import UserError
from momafuse.tokens.modality import Modality
from momafuse.tokens.names import (
    IMAGE,
    SPECIALS,
    TEXT_BEGINS,
    Spec,
    added_ids,
    codes_of,
    frame_names,
    specials_of,
    vocabulary_ids,
)
from momafuse.tokens.vocabulary import TEXT, Specials, Vocabulary

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NamedCodes:
    """(C,) `codes` of the ids from `first` on, and the ids around an item."""

    first: int
    codes: Codes
    begin: int
    end: int


@dataclass(frozen=True)
class NamedIds:
    """`source` is the name of the tokenizer, for messages."""

    source: str
    size: int
    specials: Specials
    text: Modality
    others: dict[str, NamedCodes]

    @property
    def image_codes(self) -> Codes | None:
        return self.others[IMAGE].codes if IMAGE in self.others else None

    def vocabulary(self, asked: Mapping[str, tuple[int, int]]) -> Vocabulary:
        """Of a run with these modalities beside text: codes and tokens of an item. What the file names beyond them is unused.

        Raises UserError for a modality that the file does not name, and for one with another number of codes.
        """
        modalities = [self.text]
        for name, (codes, block) in asked.items():
            named = self.others.get(name)
            if named is None:
                known = ", ".join((TEXT, *self.others))
                raise UserError(
                    f"tokenizer.text={self.source}: this file names the ids of {known} and of nothing else; "
                    f"leave out tokenizer.{name}, or choose a text tokenizer that names no ids"
                )
            if len(named.codes) != codes:
                raise UserError(
                    f"tokenizer.text={self.source}: this file names {len(named.codes):,} codes of {name}, but "
                    f"tokenizer.{name} has {codes:,}; choose two that belong together"
                )
            modalities.append(Modality(name, named.first, codes, block, named.begin, named.end))
        return Vocabulary(self.size, self.specials, tuple(modalities))


def named_ids(spec: Spec, source: str) -> NamedIds | None:
    """The layout of a parsed file; None where it names neither codes nor where text begins.

    Raises UserError where codes are not one range with every code once, and where a special is missing.
    """
    ids = vocabulary_ids(spec) | added_ids(spec)
    found = codes_of(ids)
    if not found and TEXT_BEGINS not in ids:
        return None
    specials, size = specials_of(spec), max(ids.values()) + 1
    for special, names in SPECIALS.items():
        if special not in specials:
            raise _wrong(source, f"no {special} (none of {' '.join(names)})")
    others, taken = {}, [*specials.values()]
    for name, pairs in found.items():
        frame = frame_names(name)
        for missing in (one for one in frame if one not in ids):
            raise _wrong(source, f"no {missing}")
        places, codes = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
        if (np.diff(places) != 1).any() or (np.sort(codes) != np.arange(len(codes))).any():
            raise _wrong(source, f"codes of {name} that are not one range of ids with every code from 0 on once")
        others[name] = NamedCodes(int(places[0]), codes, ids[frame[0]], ids[frame[1]])
        taken += [*places.tolist(), ids[frame[0]], ids[frame[1]]]
    if not found:
        taken += range(ids[TEXT_BEGINS] + 1)
    free = np.ones(size + 1, bool)
    free[[*taken, size]] = False
    return NamedIds(source, size, Specials(**specials), _longest(free), others)


def _longest(free: npt.NDArray[np.bool_]) -> Modality:
    """The longest run of True, the first of equal ones; the last of `free` is False."""
    ends = np.flatnonzero(~free)
    lengths = np.diff(ends, prepend=-1) - 1
    longest = int(lengths.argmax())
    return Modality(TEXT, int(ends[longest] - lengths[longest]), int(lengths[longest]))


def _wrong(source: str, what: str) -> UserError:
    return UserError(f"tokenizer.text={source}: this file names the ids of a run, but has {what}; choose another")
