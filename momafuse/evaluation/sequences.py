"""The held-out sequences that a trained run is evaluated on: the run's own budget, or one that the corpus can fill.

    some text-only sources     the budget of training; of a modality that the corpus does not hold, text has the share
    none                       n pictures (or as much speech) and the text that comes with them; the rest is `pad`, at the end
                               of each sequence, where no other row attends to it and nothing is a target

`pad` takes part in what training routing chooses from, causal routing does not see it. Computes no loss (held_out.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from momafuse.config.schema import Config
from momafuse.data.budget import modality_budget
from momafuse.data.corpus import KINDS, Corpus, Split
from momafuse.data.layout import SourceInfo
from momafuse.data.loader import Loader
from momafuse.data.packing import PackPlan
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.setup import HELD_OUT_SEED

PADDING = "pad"  # the source that fills what captions leave


@dataclass(frozen=True)
class HeldOutSequences:
    split: Split  # with the padding, if there is any
    plan: PackPlan
    loader: Loader


def held_out_sequences(config: Config, corpus: Corpus) -> HeldOutSequences:
    """The same for every run on a corpus with this budget. Raises UserError where the corpus cannot fill any."""
    v, split = corpus.vocabulary, corpus.validation
    if not split.documents:
        raise UserError(f"data.path={corpus.path}: this corpus holds no held-out documents")
    weights = dict.fromkeys((s.name for s in split.sources), 1.0)
    weights |= config.data.held_out_weights() | {PADDING: 1.0}
    used = [s for s in split.sources if s.documents and weights[s.name] > 0]
    padded = False
    held = [m for m in range(1, len(v.names)) if any(s.items[m] for s in used)]
    if not held or any(s.plain for s in used):
        shares = modality_budget(config.data, v, config.model.groups(v.names)) if held else (0,) * len(v.names)
        kept = {m: shares[m] for m in held}
        budget = tuple(kept.get(m, 0) if m else config.data.sequence_length - sum(kept.values()) for m in range(len(v.names)))
    elif len(held) > 1:
        names = ", ".join(v.names[m] for m in held)
        raise UserError(f"data.path={corpus.path}: holds {names} and no source of text alone to fill with; prepare it with one")
    else:
        budget, padded = _of_items(config, split, used, held[0]), True
        split = _with_padding(split, v, config.data.sequence_length)
    plan = PackPlan(split, budget, weights, HELD_OUT_SEED, config.data.window, fill_last=padded)
    return HeldOutSequences(split, plan, Loader(split, v, plan, budget))


def _of_items(config: Config, split: Split, used: list[SourceInfo], modality: int) -> tuple[int, ...]:
    """As many items as fit, with their mean text and the room of one long text more, so that hardly any is cut.

    Of an open modality: as many of its tokens as leave text a tenth more than comes with them.
    """
    block, length, names = split.vocabulary.modalities[modality].block, config.data.sequence_length, split.vocabulary.names
    text, tokens, items = (
        sum(c) for c in zip(*((s.tokens[0], s.tokens[modality], s.items[modality]) for s in used), strict=True)
    )
    if not block:
        n = max(1, int(length / (1 + 1.1 * text / tokens)))
        return tuple({0: length - n, modality: n}.get(m, 0) for m in range(len(names)))
    each = -(-text // items)
    longest = each
    for s in used:
        totals = np.diff(split.totals(slice(s.first, s.first + s.documents + 1)), axis=0)
        longest = max(longest, int((totals[:, 1, 0] / np.maximum(totals[:, 0, modality], 1)).max()))
    spare = longest - each
    n = max(1, (length - spare) // (block + each))
    room = max(each, min(n * each + spare, length - n * block))
    return tuple({0: room, modality: n * block}.get(m, 0) for m in range(len(names)))


def _with_padding(split: Split, v: Vocabulary, length: int) -> Split:
    """The split with a text-only source of one document of `pad`, in memory."""
    none = (0,) * (len(v.names) - 1)
    pad = np.full(length, v.specials.pad, dtype=split.tokens.dtype)
    source = SourceInfo(PADDING, split.documents, 1, (length, *none), (0, *none))
    before = split.before
    if before is not None:
        more = np.zeros_like(before[:1])
        more[0, 1, 0] = length
        before = np.concatenate([before, before[-1:] + more])
    return replace(
        split,
        tokens=np.concatenate([split.tokens, pad]),
        offsets=np.append(split.offsets, split.offsets[-1] + length),
        item_index=np.append(split.item_index, split.item_index[-1]),
        before=before,
        kinds=np.append(split.kinds, np.uint8(KINDS.index("text"))),
        sources=(*split.sources, source),
        fingerprint=f"{split.fingerprint}-{PADDING}",
    )
