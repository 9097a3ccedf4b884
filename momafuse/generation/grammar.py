"""Which ids may follow, so that what is sampled can be decoded.

    document = bos (text piece | item)* eos;   item of M = begin_M code.. end_M

An item of fixed length has its full count of codes, an open one (speech) at least one. `pad`, `bos` and `end_M` outside of an
item never follow; an item is begun only where all of it has room. Does not choose (sampling.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.tokens.modality import Modality
from momafuse.tokens.vocabulary import TEXT, Vocabulary

MIXED = "mixed"


@dataclass(frozen=True)
class State:
    """Where a document stands: inside of an item of `modality` (0: in text) with `codes` codes so far; `items` are whole."""

    modality: int = 0
    codes: int = 0
    items: int = 0
    ended: bool = False


class Grammar:
    """`wanted`: `text`, a modality (one item of it, and the end), or `mixed` (text and items until `eos`)."""

    def __init__(self, vocabulary: Vocabulary, wanted: str) -> None:
        """Raises UserError for what the vocabulary does not have."""
        framed = [m.name for m in vocabulary.modalities if m.frame]
        if wanted not in (TEXT, MIXED, *framed):
            raise UserError(f"make={wanted}: this run makes {', '.join((TEXT, *framed, MIXED))}")
        self.vocabulary, self.wanted = vocabulary, wanted
        self._numbers = {m.begin: n for n, m in enumerate(vocabulary.modalities) if m.frame}
        self._mask = cache(self._of_ids)

    def start(self, ids: Collection[int]) -> State:
        """The state behind a prompt, whose items do not count. ValueError where the ids are no document's beginning."""
        state = State()
        for i in list(ids)[1:]:
            state = self._next(state, i)
        return State(state.modality, state.codes)

    def allowed(self, state: State, room: int) -> Tensor:
        """(V,) bool: the ids that may come next, `room` of which a sequence still takes. Never none."""
        v = self.vocabulary
        if state.ended:
            return self._mask((v.specials.pad,))
        if state.modality:
            m = v.modalities[state.modality]
            if m.block:
                return self._mask(m.name if state.codes < m.block else m.frame[1:])
            return self._mask((*([m.name] if room > 1 else []), *(m.frame[1:] if state.codes else [])) or m.name)
        if self.wanted not in (TEXT, MIXED):
            m = v.modality(self.wanted)
            self._check_room(m, room)
            return self._mask(m.frame[:1])
        begins = [m.begin for m in v.modalities if m.frame and self.wanted == MIXED and self._needs(m) <= room]
        return self._mask((TEXT, v.specials.eos, *begins))

    def next(self, state: State, id: int) -> State:
        """Behind one id more. Raises ValueError for one that may not follow."""
        after = self._next(state, id)
        if self.wanted not in (TEXT, MIXED) and after.items:
            return State(items=after.items, ended=True)
        return after

    def _next(self, state: State, id: int) -> State:
        v, inside = self.vocabulary, self.vocabulary.modalities[state.modality]
        if state.modality and inside.first <= id <= inside.last and (not inside.block or state.codes < inside.block):
            return State(state.modality, state.codes + 1, state.items)
        if state.modality and id == inside.end and state.codes and state.codes >= inside.block:
            return State(items=state.items + 1)
        if not state.modality and id in self._numbers:
            return State(self._numbers[id], 0, state.items)
        if not state.modality and id == v.specials.eos:
            return State(items=state.items, ended=True)
        if not state.modality and v.modality(TEXT).first <= id <= v.modality(TEXT).last:
            return state
        raise ValueError(f"id {id} may not follow {state}")

    @staticmethod
    def _needs(m: Modality) -> int:
        return max(m.block, 1) + len(m.frame)

    def _check_room(self, m: Modality, room: int) -> None:
        if self._needs(m) > room:
            raise UserError(f"make={m.name}: takes {self._needs(m)} tokens, and behind this prompt are {room}; shorten it")

    def _of_ids(self, what: str | tuple[str | int | None, ...]) -> Tensor:
        """Ids by number, and all of a modality by name."""
        mask = np.zeros(self.vocabulary.size, bool)
        for part in (what,) if isinstance(what, str) else what:
            if isinstance(part, str):
                m = self.vocabulary.modality(part)
                mask[m.first : m.last + 1] = True
            else:
                mask[part] = True
        return torch.from_numpy(mask)
