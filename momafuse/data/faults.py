"""Says which token of a corpus is not what it should be: its file, its place in it, its document and source.

Called where a batch has been found to be wrong (loader.py); checks no corpus by itself: of one too large to be read at
opening, `Corpus.open(..., verify=True)` compares all bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from momafuse.errors import UserError

if TYPE_CHECKING:
    from momafuse.data.corpus import Split
    from momafuse.data.mixture import Ints

_REMEDY = "the file is damaged: restore it, or delete the corpus and run python -m momafuse.prepare again"


def fault_of(split: Split, places: Ints) -> UserError:
    """The error that names the first of the tokens at these places of the split that is no id of the vocabulary, or not of the
    modality that its document has there."""
    documents = np.searchsorted(split.offsets, places, side="right") - 1
    table, names = split.vocabulary.modality_of_ids(), split.vocabulary.names
    for document in dict.fromkeys(documents.tolist()):
        mine, begin = places[documents == document], int(split.offsets[document])
        ids, expected = split.tokens[mine].astype(np.int64), _modalities(split, document)[mine - begin]
        beyond = ids >= split.vocabulary.size
        found = table[np.where(beyond, 0, ids)]
        wrong = np.flatnonzero(beyond | (found != expected))
        if len(wrong):
            at = int(wrong[0])
            problem = f"not below the vocabulary's {split.vocabulary.size}"
            if not beyond[at]:
                problem = f"of {names[found[at]]}, where its document has {names[expected[at]]}"
            return _error(split, f"holds id {ids[at]} at token {mine[at]} ({_whose(split, document)}), {problem}")
    whose = ", ".join(_whose(split, document) for document in dict.fromkeys(documents.tolist()))
    return _error(split, f"does not hold what the totals of its documents say ({whose})")


def _modalities(split: Split, document: int) -> Ints:
    """Of each token of a document, by the places of its items."""
    expected = np.zeros(int(split.offsets[document + 1] - split.offsets[document]), np.int64)
    for (first, codes), modality in zip(*split.items_of(document), strict=True):
        expected[first : first + codes] = modality
    return expected


def _whose(split: Split, document: int) -> str:
    name = next(s.name for s in split.sources if s.first <= document < s.first + s.documents)
    return f"document {document}, of source {name}"


def _error(split: Split, problem: str) -> UserError:
    return UserError(f"data.path={split.path.parent}: {split.path.name}/tokens.bin {problem}; {_REMEDY}")
