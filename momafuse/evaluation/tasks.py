"""Which targets count for what: the tasks of MoMa's Table 3 (arXiv 2407.21770) on packed held-out sequences.

    SOURCE/MODALITY         every target
    text_given_image        text of a pair whose picture comes first (captioning); no special ids
    image_given_text        codes of a pair whose text comes first; and so for any two modalities
    answers                 text that is not given, of documents with given segments (questions); no special ids
    interleaved_MODALITY    targets of documents with several segments that are not text alone, none of them given

Sequences are packed as in training, so a document may see others before it unless `model.attention.document_mask` is on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from momafuse.data.corpus import KINDS, Split
from momafuse.data.packing import PackPlan
from momafuse.tokens.vocabulary import Vocabulary

Bools = npt.NDArray[np.bool_]


def places(split: Split, plan: PackPlan, sequences: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of every row of these sequences, end to end: its document, and the place of its token in the document."""
    pieces = [piece for sequence in sequences for piece in plan.pieces(sequence)]
    documents = np.repeat([p.document for p in pieces], [p.stop - p.start for p in pieces])
    return documents, np.concatenate([np.arange(p.start, p.stop) for p in pieces])


def labels(
    split: Split, v: Vocabulary, documents: npt.NDArray[np.int64], place: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]
) -> Iterator[tuple[str, Bools]]:
    """Name -> which rows' targets count; `targets` (T,) with -1 for none, the token after the row's.

    Given segments (VQA-v2's questions) count for SOURCE/MODALITY alone.
    """
    given, prompted = _given(split, documents, place)
    valid = targets >= 0
    modality = np.where(valid, v.modality_of_ids()[np.maximum(targets, 0)], len(v.names))
    special = np.isin(targets, list(v.named_specials().values()))
    for s in split.sources:
        mine = (documents >= s.first) & (documents < s.first + s.documents)
        for m, name in enumerate(v.names):
            yield f"{s.name}/{name}", mine & (modality == m)
    kind = np.asarray(split.kinds)[documents]
    pair = kind == KINDS.index("pair")
    own = valid & ~given
    yield "answers", prompted & own & (modality == v.names.index("text")) & ~special
    if len(split.items):
        first, start = _first_segment(split, v, documents)
        after = own & pair & ~special & (place + 1 > start)
        for (a, given_name), (b, name) in itertools.permutations(enumerate(v.names), 2):
            yield f"{name}_given_{given_name}", after & (first == a) & (modality == b)
    for m, name in enumerate(v.names):
        yield f"interleaved_{name}", valid & ~prompted & (kind == KINDS.index("interleaved")) & (modality == m)


def _given(split: Split, documents: npt.NDArray[np.int64], place: npt.NDArray[np.int64]) -> tuple[Bools, Bools]:
    """Whether the token after the row's is given, and whether anything of the row's document is."""
    if split.given is None:
        return np.zeros(len(place), bool), np.zeros(len(place), bool)
    offsets, begins = np.asarray(split.offsets), np.asarray(split.given[:, 0])
    given = np.searchsorted(split.given.reshape(-1), offsets[documents] + place + 1, side="right") % 2 == 1
    first, last = (np.searchsorted(begins, offsets[documents + i]) for i in (0, 1))
    return given, last > first


def _first_segment(
    split: Split, v: Vocabulary, documents: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of documents with items: the modality of their first segment, and where the codes of the first item begin (text: 0)."""
    item = np.minimum(np.asarray(split.item_index)[documents], len(split.items) - 1)
    start = np.asarray(split.items)[item, 0] - np.asarray(split.offsets)[documents]
    modality = np.ones_like(item) if split.item_modality is None else np.asarray(split.item_modality)[item].astype(np.int64)
    earliest = np.array([1 + len(m.frame) // 2 for m in v.modalities])  # after bos and its frame
    leads = start == earliest[modality]
    return np.where(leads, modality, 0), np.where(leads, start, 0)
