"""Which targets count for what: the tasks of MoMa's Table 3 (arXiv 2407.21770) on packed held-out sequences.

    SOURCE/MODALITY         every target
    caption_given_picture   text of a pair whose picture comes first; no special ids
    picture_given_caption   codes of a pair whose text comes first
    answers                 text that is not given, of documents with given segments (questions); no special ids
    interleaved_MODALITY    targets of documents with several segments around pictures, none of them given

Sequences are packed as in training, so a document may see others before it unless `model.attention.document_mask` is on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple

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
    special = np.isin(targets, astuple(v.specials))
    for s in split.sources:
        mine = (documents >= s.first) & (documents < s.first + s.documents)
        for m, name in enumerate(v.names):
            yield f"{s.name}/{name}", mine & (modality == m)
    kind = np.asarray(split.kinds)[documents]
    pair = kind == KINDS.index("pair")
    own = valid & ~given
    yield "answers", prompted & own & (modality == v.names.index("text")) & ~special
    if len(split.images):
        first = np.minimum(np.asarray(split.image_index)[documents], len(split.images) - 1)
        start = np.asarray(split.images)[first, 0] - np.asarray(split.offsets)[documents]
        picture_first = start == 2  # after bos and begin_image
        text, image = v.names.index("text"), v.names.index("image")
        yield "caption_given_picture", pair & own & picture_first & (modality == text) & ~special & (place + 1 > start)
        yield "picture_given_caption", pair & own & ~picture_first & (modality == image)
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
