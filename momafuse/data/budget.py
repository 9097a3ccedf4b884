"""How many tokens of each modality every training sequence holds: the modality budget.

    S_m = share_m * S for every modality m but text, a whole number of items where these have a fixed length;
    S_text = S - the rest

The frame of an item is text, so a picture costs at least two text tokens as well. Everything here is host arithmetic on totals,
done before the first step. Does not choose documents (lines.py, packing.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from momafuse.config.nearest import did_you_mean
from momafuse.config.schema import DataConfig, share_key
from momafuse.errors import UserError
from momafuse.tokens.modality import Modality
from momafuse.tokens.vocabulary import TEXT, Vocabulary

TOLERANCE = 1e-5  # shares are written with six digits


def modality_budget(data: DataConfig, vocabulary: Vocabulary, experts: dict[str, int]) -> tuple[int, ...]:
    """Tokens of each modality (in the vocabulary's order) in every sequence; the sum is `data.sequence_length`.

    `experts` are the model's expert counts, read where a share is `experts`. UserError with the nearest valid shares where
    the tokens of a modality are no whole number of items, or leave no text to frame them with.
    """
    length = data.sequence_length
    if length < 1:
        raise UserError(f"data.sequence_length={length}: a sequence needs at least one token")
    others = vocabulary.modalities[1:]
    names = [m.name for m in others]
    shares = data.shares(names)
    for name in shares:
        if name not in names:
            known = f"the corpus has {', '.join(vocabulary.names)}, and text takes what is left"
            raise UserError(f"{share_key(name)}={shares[name]}: no such modality{did_you_mean(name, names)}; {known}")
    asked = {m: _share(m, shares[m.name], experts) for m in others if m.name in shares}
    budget = dict.fromkeys(names, 0)
    taken = 0  # with frames
    for m in sorted(asked, key=lambda m: m.block == 0):  # open ones can take what is left
        share, source = asked[m]
        budget[m.name] = _tokens(m, share, source, length, taken)
        taken += budget[m.name] + (_frame(m) * budget[m.name] // m.block if m.block else 0)
    return length - sum(budget.values()), *budget.values()


def most_items(length: int, block: int, text_per_item: float) -> int:
    """The most items of `block` tokens that a sequence holds if each brings that much text; one token is spared."""
    return max(0, int((length - 1) / (block + text_per_item)))


def check_text(key: str, text: int, tokens: int, length: int, block: int, text_per_item: float, fillable: bool) -> None:
    """Raise UserError where a corpus cannot meet the budget: `text` beside `tokens` of a modality, in `length`.

    `key` is the share of the modality in the config, `block` the tokens of its items (or 1), `text_per_item` the mean text that
    one brings; `fillable` says that there is text-only data.
    """
    needed = tokens // block * text_per_item
    if needed > text:
        best = most_items(text + tokens, block, text_per_item) * block
        raise UserError(
            f"{key}={tokens / length:g}: {tokens} tokens bring {needed:.1f} of text on average, but "
            f"a sequence has {text}; the largest valid share for this corpus is {best / length:g}"
        )
    if not fillable and needed < text:
        raise UserError(
            f"{key}={tokens / length:g}: no text to fill with, {tokens} tokens bring {needed:.1f} of "
            f"{text} text tokens; add a text-only source to data.sources with a weight above 0"
        )


def _tokens(m: Modality, share: float, source: str, length: int, taken: int) -> int:
    """Those of modality `m` in a sequence of which `taken` tokens are spoken for."""
    block, frame, key = m.block or 1, _frame(m) if m.block else 0, share_key(m.name)
    items, most = round(share * length / block), most_items(length - taken, block, frame)
    exact = not m.block or abs(share - items * block / length) <= TOLERANCE
    if exact and 0 <= items <= most:
        return items * block
    if not m.block:
        raise UserError(
            f"{key}={source}: of {length} tokens, only {most} are left; the largest valid share is {most / length:.6g}"
        )
    remedy = _nearest(share, length, block, most, block + frame + 1 + taken)
    raise UserError(
        f"{key}={source}: {share * length:g} of data.sequence_length={length} tokens are no whole number of items "
        f"({block} tokens each, and {frame} of text beside them); {remedy}"
    )


def _frame(m: Modality) -> int:
    """Text tokens that an item cannot do without."""
    return len(m.frame)


def _share(m: Modality, share: float | str, experts: Mapping[str, int]) -> tuple[float, str]:
    """The share as a number, and how the user wrote it."""
    if not isinstance(share, str):
        return float(share), f"{share}"
    split = {name: count for name, count in experts.items() if name != "shared"}
    if "all" in split or not split:
        counts = ", ".join(f"{name}: {count}" for name, count in experts.items())
        raise UserError(
            f"{share_key(m.name)}=experts: the experts ({counts}) are not split into modalities; "
            f"give a number, such as {share_key(m.name)}=0.5, or a model with experts.{TEXT} and experts.{m.name}"
        )
    written = ", ".join(f"{name}: {count}" for name, count in split.items())
    return split.get(m.name, 0) / sum(split.values()), f"experts ({written})"


def _nearest(share: float, length: int, block: int, most: int, shortest: int) -> str:
    if most == 0:
        return f"raise data.sequence_length to at least {shortest}"
    if most == 1:
        return f"the only valid share is {block / length:g}"
    below = min(max(int(share * length / block), 1), most - 1)
    return f"the nearest valid shares are {below * block / length:g} and {(below + 1) * block / length:g}"
