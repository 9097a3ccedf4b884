"""An answer as HTML: text whose tokens lie on the colours of their experts, items beside their cells, a legend.

    <span style="background: ..." title="text 3, gate 0.71">apple</span>      a token
    <img> <img>                                                               a picture, and the same under its cells

One layer at a time. Colours are those of reports/drawing.py; what a layer without routers would show is one line instead.
"""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import numpy as np
from PIL import Image

from momafuse.generation.experts import Taken
from momafuse.reports.drawing import SHARE, Pixels, colour, in_lines, over_picture
from momafuse.reports.pages import embedded, rendered
from momafuse.routing.names import NONE, PASSED
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary
from momafuse.web.answer import Answer, Run, runs_of

_CROSSED = "background: linear-gradient(to top right, #fff 45%, #3c3c3c 46%, #3c3c3c 54%, #fff 55%)"


def page(answer: Answer, layer: int, vocabulary: Vocabulary, text: TextTokenizer) -> str:
    """HTML of one answer, coloured by layer `layer` (from 0)."""
    taken = answer.layers[layer]
    blocks: dict[str, list[dict[str, Any]]] = {"Given": [], "Made": []}
    for run in runs_of(answer.ids, answer.given, vocabulary):
        title = "Given" if run.start < answer.given else "Made"
        block = _item(answer, run, taken, vocabulary) if run.modality else _text(answer, run, taken, vocabulary, text)
        blocks[title].append(block)
    return rendered(
        "experts.html",
        about=_about(answer, layer),
        legend=_legend(taken),
        sections=[{"title": title, "blocks": several} for title, several in blocks.items()],
    )


def _about(answer: Answer, layer: int) -> str:
    taken = answer.layers[layer]
    if not any(one.routed for one in answer.layers):
        return "This model has no routers: a token's modality alone says which network takes it, so nothing is coloured."
    if not taken.routed:
        return f"Layer {layer + 1} has no router: every token goes through its one network, so nothing is coloured."
    more = "of several experts, the one with the largest gate counts" if (taken.count > 1).any() else ""
    passed = "a crossed or underlined token is not in this layer" if (taken.expert == PASSED).any() else ""
    notes = "".join(f"; {note}" for note in (more, passed) if note)
    return f"Layer {layer + 1} of {len(answer.layers)}: which expert took each of {len(answer.ids)} tokens{notes}."


def _legend(taken: Taken) -> list[dict[str, Any]]:
    """The experts that count, those without a token too; what else happened to tokens, where it did."""
    if not taken.routed:
        return []
    entries = [(e, taken.names[e]) for e in taken.counting]
    entries += [(n, name) for n, name in ((NONE, "no expert"), (PASSED, "passed by")) if (taken.expert == n).any()]
    return [{"name": name, "rows": int((taken.expert == n).sum()), "style": _style(n, taken)} for n, name in entries]


def _text(answer: Answer, run: Run, taken: Taken, vocabulary: Vocabulary, text: TextTokenizer) -> dict[str, Any]:
    """A stretch of text: one word for each of its rows, specials by their names."""
    first, last = vocabulary.modality(TEXT).first, vocabulary.modality(TEXT).last
    names = {i: name for name, i in vocabulary.named_specials().items()}
    words = []
    for plain, rows in itertools.groupby(range(run.start, run.stop), lambda row: first <= answer.ids[row] <= last):
        numbers = list(rows)
        ids = [answer.ids[row] for row in numbers]
        spelt = text.spelled(i - first for i in ids) if plain else [names.get(i, f"id {i}") for i in ids]
        words += [_word(word, row, taken, "" if plain else "special") for word, row in zip(spelt, numbers, strict=True)]
    return {"words": words}


def _word(text: str, row: int, taken: Taken, kind: str) -> dict[str, str]:
    """`text` may be empty: a byte of a character that stands with a later row."""
    expert, several = int(taken.expert[row]), int(taken.count[row])
    if not taken.routed:
        return {"text": text, "kind": kind, "style": "", "title": ""}
    if expert == PASSED:
        return {"text": text or "·", "kind": f"{kind} passed".strip(), "style": "", "title": "passed by"}
    more = f", the largest of {several}" if several > 1 else ""
    title = "no expert" if expert == NONE else f"{taken.names[expert]}, gate {taken.gate[row]:.2f}{more}"
    return {"text": text or "·", "kind": kind, "style": _style(expert, taken), "title": title}


def _item(answer: Answer, run: Run, taken: Taken, vocabulary: Vocabulary) -> dict[str, Any]:
    """A picture beside itself under its cells; of another item the file, and its cells in lines; these alone of one that was
    cut or cannot be decoded."""
    m, expert = vocabulary.modalities[run.modality], taken.expert[run.start : run.stop]
    suffix, data = answer.files.get(run.start, ("", b""))
    shown = [embedded(suffix, data, m.name)] if suffix else []
    square = suffix == "png" and math.isqrt(len(expert)) ** 2 == len(expert)
    if taken.routed:
        experts = len(taken.names)
        cells = over_picture(_pixels(data), expert, experts) if square else in_lines(expert, experts)
        shown.append(embedded("png", _png(cells), f"{m.name}: the expert of each code"))
    cut = "" if suffix or len(expert) == m.block else f" of {m.block or 'more'}"
    return {"kind": "picture" if square else "item", "shown": shown, "caption": f"{m.name}, {len(expert)}{cut} codes"}


def _style(expert: int, taken: Taken) -> str:
    if expert == PASSED:
        return _CROSSED
    r, g, b = colour(expert, len(taken.names))
    return f"background: rgba({r}, {g}, {b}, {SHARE})"


def _pixels(data: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def _png(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
