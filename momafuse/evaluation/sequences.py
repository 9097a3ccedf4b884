"""The held-out sequences that a trained run is evaluated on: the run's own budget, or one that the corpus can fill.

    some pictures, some text-only sources     the budget of training
    text alone                                sequences of text
    pictures alone                            n pictures and the text that comes with them; the rest is `pad`, at the end of
                                              each sequence, where no other row attends to it and nothing is a target

`pad` takes part in what training routing chooses from, causal routing does not see it. Computes no loss (held_out.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from momafuse.config.schema import Config
from momafuse.data.budget import modality_budget
from momafuse.data.corpus import KINDS, Corpus, SourceInfo, Split
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
    weights |= {name: x.weight for name, x in config.data.sources.items()} | {PADDING: 1.0}
    used = [s for s in split.sources if s.documents and weights[s.name] > 0]
    padded = False
    if not any(s.pictures for s in used):
        budget = tuple(config.data.sequence_length if name == "text" else 0 for name in v.names)
    elif any(not s.pictures for s in used):
        budget = modality_budget(config.data, v, config.model.groups(v.names))
    else:
        budget, padded = _of_pictures(config, v, split, used), True
        split = _with_padding(split, v, config.data.sequence_length)
    plan = PackPlan(split, budget, weights, HELD_OUT_SEED, config.data.window, fill_last=padded)
    return HeldOutSequences(split, plan, Loader(split, v, plan, budget))


def _of_pictures(config: Config, v: Vocabulary, split: Split, used: list[SourceInfo]) -> tuple[int, ...]:
    """As many pictures as fit, with their mean text and the room of one long text more, so that hardly any is cut."""
    block, length = v.modality("image").block, config.data.sequence_length
    each = -(-sum(s.text_tokens for s in used) // sum(s.pictures for s in used))
    longest = each
    for s in used:
        at = slice(s.first, s.first + s.documents + 1)
        pictures = np.diff(split.image_index[at])
        text = np.diff(split.offsets[at]) - block * pictures
        longest = max(longest, int((text / np.maximum(pictures, 1)).max()))
    spare = longest - each
    n = max(1, (length - spare) // (block + each))
    text = max(each, min(n * each + spare, length - n * block))
    return tuple({"text": text, "image": n * block}.get(name, 0) for name in v.names)


def _with_padding(split: Split, v: Vocabulary, length: int) -> Split:
    """The split with a text-only source of one document of `pad`, in memory."""
    pad = np.full(length, v.specials.pad, dtype=split.tokens.dtype)
    source = SourceInfo(PADDING, split.documents, 1, length, 0, 0)
    return replace(
        split,
        tokens=np.concatenate([split.tokens, pad]),
        offsets=np.append(split.offsets, split.offsets[-1] + length),
        image_index=np.append(split.image_index, split.image_index[-1]),
        kinds=np.append(split.kinds, np.uint8(KINDS.index("text"))),
        sources=(*split.sources, source),
        fingerprint=f"{split.fingerprint}-{PADDING}",
    )
