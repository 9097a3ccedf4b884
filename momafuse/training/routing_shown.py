"""What plots/routing.png shows of a run: pictures and words by expert, ways through layers, loads over the run's evaluations.

Of several experts of a row the one with the largest gate counts, as on the demo's page (generation/experts.py). A word's tokens
are the pieces that it is spelt with; other signs and specials count as words of their own. How far an expert's share of a
word's tokens is above its share p of all tokens of text:

    z = (k - n p) / sqrt(n p (1 - p)),   k of n tokens of the word

`router.jsonl` in the run folder holds the loads of each evaluation, a row a step: `load/LAYER/GROUP/EXPERT`
over the even one.
Draws nothing (reports/routing_plot.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from momafuse.config.schema import Config
from momafuse.data.codecs import decodes, load_codecs
from momafuse.generation.experts import Taken
from momafuse.models.transformer import Transformer
from momafuse.reports.drawing import blank, over_picture
from momafuse.reports.metrics import MetricsFile, read_metrics
from momafuse.reports.plots import pixels_of
from momafuse.reports.routing_plot import LOAD_PANELS, Layer, Loads, Paths, Shown, plot_routing
from momafuse.routing.names import NONE, PASSED, SHARED
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary
from momafuse.training.router_report import over_even
from momafuse.training.router_watch import RouterFound, Seen

PICTURES, WORDS, PATHS, PATH_WORDS = 5, 7, 8, 4
LEAST = 4  # tokens of a word that is shown
EXPERTS = 12  # of text, those that take the most words, with words of their own
Ints = npt.NDArray[np.int64]
WORD = re.compile(r"[^\W_](?:[\w'-]*\w)?")


def draw_routing(config: Config, model: Transformer, v: Vocabulary, found: RouterFound, path: Path, step: int) -> None:
    """Keep the loads of this evaluation, at `step`, and draw plots/routing.png of the run in `path`."""
    keep_loads(found, path / "router.jsonl", step)
    if found.seen is not None:
        shown = shown_of(config, model, v, found.seen, loads_of(model, found, path / "router.jsonl"))
        plot_routing(shown, path / "plots" / "routing.png")


def shown_of(config: Config, model: Transformer, v: Vocabulary, seen: Seen, loads: Loads | None) -> Shown:
    words, spelt = words_of(seen, TextTokenizer.load(config.tokenizer[TEXT]), v)
    layers = list(seen.layers)
    chosen = sorted({layers[len(layers) // 2], layers[-1]})
    pictures = pictures_of(config, seen, v)
    names = seen.layers[layers[0]].names
    shown = []
    for i in chosen:
        taken = seen.layers[i]
        drawn = [over_picture(pixels, taken.expert[first : first + n], len(names)) for pixels, first, n in pictures]
        busiest = sorted(experts_of(model, 0, taken), key=lambda e: -int((taken.expert[words >= 0] == e).sum()))[:EXPERTS]
        of_expert = [(e, typical(words, taken.expert == e, spelt, WORDS)) for e in sorted(busiest)]
        shown.append(Layer(i, drawn, of_expert, bool((taken.expert == PASSED).any())))
    paths = [paths_of(model, v.names[m], m, seen, words, spelt) for m in range(len(v.names))]
    return Shown(names, [pixels for pixels, _, _ in pictures], shown, [p for p in paths if p is not None], loads)


def experts_of(model: Transformer, modality: int, taken: Taken) -> list[int]:
    """Numbers of those that a modality's rows can go to and that count."""
    each = [g for g in model.groups for _ in range(g.experts)]
    return [e for e in taken.counting if modality in each[e].modalities]


# -- words


def words_of(seen: Seen, text: TextTokenizer, v: Vocabulary) -> tuple[Ints, list[str]]:
    """Of every row the number of its word, -1 for none, and the words, in lower case; specials by their names."""
    m, numbers, spelt = v.modality(TEXT), np.full(len(seen.tokens), -1), dict[str, int]()
    tokens, document = seen.tokens.numpy(), seen.document.numpy()
    piece = (tokens >= m.first) & (tokens <= m.last)
    sequence = np.arange(len(tokens)) // seen.length
    new = np.ones(len(tokens), bool)  # where a stretch of text begins, or something else
    new[1:] = (piece[1:] != piece[:-1]) | (document[1:] != document[:-1]) | (sequence[1:] != sequence[:-1])
    starts = np.flatnonzero(new)
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        if piece[start]:
            parts = text.spelled((tokens[start:stop] - m.first).tolist())
            ends = np.cumsum([len(part) for part in parts])
            for at, part in enumerate(parts, int(start)):
                if sign := part.strip():
                    numbers[at] = spelt.setdefault(sign.lower(), len(spelt))
            for found in WORD.finditer("".join(parts)):
                first, last = np.searchsorted(ends, [found.start(), found.end() - 1], side="right")
                numbers[start + first : start + last + 1] = spelt.setdefault(found.group().lower(), len(spelt))
    for name, special in v.named_specials().items():
        numbers[tokens == special] = spelt.setdefault(f"<{name}>", len(spelt))
    return numbers, list(spelt)


def typical(words: Ints, mine: npt.NDArray[np.bool_], spelt: Sequence[str], most: int) -> list[str]:
    """The words, words (n,) of rows, that stand above their base rate among the rows that are `mine` (n,), best first."""
    there = words >= 0
    n = np.bincount(words[there], minlength=len(spelt)).astype(float)
    k = np.bincount(words[there & mine], minlength=len(spelt))
    p = k.sum() / max(1.0, n.sum())
    if not 0 < p < 1:
        return []
    z = (k - n * p) / np.sqrt(np.maximum(n, 1) * p * (1 - p))
    z[n < LEAST] = -np.inf
    return [spelt[w] for w in np.argsort(-z, kind="stable")[:most] if z[w] > 1]


# -- pictures


def pictures_of(config: Config, seen: Seen, v: Vocabulary) -> list[tuple[npt.NDArray[np.uint8], int, int]]:
    """Some that are whole and different, after their codec, with first row and number of codes; of modalities whose items are a
    square of codes and look like a picture. White where the codec only encodes."""
    found: list[tuple[npt.NDArray[np.uint8], int, int]] = []
    modality, tokens = seen.modality.numpy(), seen.tokens.numpy()
    codecs = load_codecs(config.tokenizer)
    for number, m in enumerate(v.modalities):
        if not number or not m.block or math.isqrt(m.block) ** 2 != m.block:
            continue
        mine = (modality == number).reshape(-1, seen.length)
        before = np.pad(mine, ((0, 0), (1, 0)))[:, :-1]
        firsts = np.flatnonzero((mine & ~before).flatten())
        firsts = np.array([f for f in firsts if f % seen.length + m.block <= seen.length], dtype=int)
        _, kept = np.unique(np.array([tokens[f : f + m.block] for f in firsts]).reshape(-1, m.block), axis=0, return_index=True)
        different = np.sort(firsts[kept])
        for place in np.unique(np.linspace(0, len(different) - 1, min(PICTURES, len(different))).astype(int)):
            first = int(different[place])
            if not decodes(codec := codecs[m.name]):
                found.append((blank(math.isqrt(m.block)), first, m.block))
                continue
            (drawn,) = codec.drawn([codec.decode(tokens[first : first + m.block] - m.first)])
            if drawn.ndim == 3:
                found.append((pixels_of(drawn), first, m.block))
    return found


# -- ways through layers


def paths_of(model: Transformer, name: str, modality: int, seen: Seen, words: Ints, spelt: Sequence[str]) -> Paths | None:
    """Of a modality that some group of several experts serves, in layers where one does; else None."""
    rows, layers = np.flatnonzero(seen.modality.numpy() == modality), list(seen.layers)
    routed = any(g.experts > 1 and modality in g.modalities and g.name != SHARED for g in model.groups)
    if not routed or not len(rows):
        return None
    experts = experts_of(model, modality, seen.layers[layers[0]])
    went = np.stack([seen.layers[i].expert[rows] for i in layers], axis=1)  # (n, layers)
    places = [*experts, *(place for place in (NONE, PASSED) if (went == place).any())]
    ways, of_row = np.unique(went, axis=0, return_inverse=True)
    paths = []
    for way, count in Counter(of_row.flatten().tolist()).most_common(PATHS):
        mine = np.zeros(len(words), bool)
        mine[rows[of_row.flatten() == way]] = True
        sample = typical(words, mine, spelt, PATH_WORDS) if modality == 0 else []
        paths.append((tuple(ways[way].tolist()), count / len(rows), sample))
    column = {place: n for n, place in enumerate(places)}
    at = np.vectorize(column.__getitem__)(went)
    flows = np.zeros((len(layers) - 1, len(places), len(places)))
    for i, flow in enumerate(flows):
        np.add.at(flow, (at[:, i], at[:, i + 1]), 1 / len(rows))
    return Paths(name, layers, places, paths, flows)


# -- loads


def keep_loads(found: RouterFound, path: Path, step: int) -> None:
    """Later rows, of a run that went on from an earlier step, are dropped."""
    row: dict[str, Any] = {"step": step}
    for e in found.entries:
        row |= {f"load/{e['layer']}/{e['group']}/{n}": round(load, 4) for n, load in enumerate(over_even(e))}
    file = MetricsFile(path, step - 1)
    file.write(row)
    file.close()


def loads_of(model: Transformer, found: RouterFound, path: Path) -> Loads | None:
    """Of at most `LOAD_PANELS` layers; None where loads are even by construction and never were otherwise."""
    rows = read_metrics(path)
    layers = sorted({e["layer"] for e in found.entries})
    layers = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, min(LOAD_PANELS, len(layers))).astype(int))]
    keys, experts, first = list[tuple[str, int]](), list[int](), 0
    for g in model.groups:
        if g.experts > 1:
            keys += [(g.name, n) for n in range(g.experts)]
            experts += range(first, first + g.experts)
        first += g.experts
    of = np.array([[[float(row[f"load/{i}/{g}/{n}"]) for g, n in keys] for i in layers] for row in rows])
    if np.abs(of - 1).max() < 0.02:
        return None
    return Loads([int(row["step"]) for row in rows], layers, experts, of)
