"""Whether what a run draws and writes has to do with what it was asked for: likelihoods of held-out pairs, and a sheet.

    python scripts/study_generation.py runs/demo-aux_routers       # docs/results/generation.{json,png}

The right one of 20: how often, among 20 held-out pairs, a text's own picture is the likeliest, and a picture's own text: the
expectation over all draws of the 19 others, with its standard error over the pairs. By four scores, x the text or the picture
that is asked with and y a candidate:

    forward   log p(y | x), where what is likely anyway wins: white pictures, short texts
    ratio     log p(y | x) - log p(y)
    reverse   log p(x | y), which is how Bayes' rule chooses among candidates that are as likely as one another
    both      log p(y | x) / p(y) + log p(x | y) / p(x), where p(y) is the mean of p(y | x) over all held-out x

The sheet: eight held-out texts, their pictures after the tokenizer, and what is drawn at each guidance and temperature.
"""

from __future__ import annotations

import argparse
import itertools
import json
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import momafuse
from momafuse.checkpoint import store
from momafuse.config.compose import load_config
from momafuse.data.corpus import Corpus
from momafuse.data.prepare import open_or_prepare
from momafuse.generation.sampling import Sampling
from momafuse.interface import Model
from momafuse.tokens.vocabulary import TEXT
from momafuse.training.samples import Pair, held_out_pairs

AMONG = 20
GUIDANCE, TEMPERATURES = (1.0, 2.0, 4.0), (0.7, 1.0)
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--modality", default="image")
    parser.add_argument("--pairs", type=int, default=200, help="at most so many held-out pairs")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    model = momafuse.load(asked.run)
    corpus = open_or_prepare(load_config(store.find(Path(asked.run)) / "config.yaml"))
    number = model.modalities.index(asked.modality)
    pairs = distinct(list(held_out_pairs(corpus.validation, number, 10 * asked.pairs)), asked.pairs, model)
    if len(pairs) < AMONG:
        raise SystemExit(
            f"study_generation: error: {len(pairs)} held-out pairs of text and one {asked.modality}; it takes {AMONG}"
        )
    found = {"run": asked.run, "among": AMONG, "pairs": len(pairs), "chance": 1 / AMONG, **retrieval(model, pairs)}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "generation.json").write_text(json.dumps(found, indent=1) + "\n")
    sheet(model, corpus, number, asked.out / "generation.png")
    print(json.dumps(found, indent=1))


def distinct(pairs: list[Pair], most: int, model: Model) -> list[Pair]:
    """No text and no item twice, and all of a pair within a sequence."""
    found: dict[tuple[int, ...], Pair] = {}
    items = set()
    for text, item in pairs:
        if tuple(text) not in found and tuple(item) not in items and len(text) + len(item) < model.lm.length:
            found[tuple(text)] = (text, item)
            items.add(tuple(item))
    return list(found.values())[:most]


def retrieval(model: Model, pairs: list[Pair]) -> dict[str, Any]:
    """For either direction, score -> [share of queries whose own partner comes first, its standard error]."""
    bos = [model.vocabulary.specials.bos]
    texts, items = [text for text, _ in pairs], [item for _, item in pairs]
    item_of = likelihoods(model, [[*bos, *text] for text in texts], items)
    text_of = likelihoods(model, [[*bos, *item] for item in items], texts)
    alone_item, alone_text = (likelihoods(model, [bos], wanted) for wanted in (items, texts))
    both = item_of - log_mean(item_of) + (text_of - log_mean(text_of)).T
    scores = {
        "item_of_text": {"forward": item_of, "ratio": item_of - alone_item, "reverse": text_of.T, "both": both},
        "text_of_item": {"forward": text_of, "ratio": text_of - alone_text, "reverse": item_of.T, "both": both.T},
    }
    return {way: {name: first_of(AMONG, score) for name, score in by.items()} for way, by in scores.items()}


def likelihoods(model: Model, contexts: list[list[int]], wanted: list[list[int]]) -> np.ndarray:
    """(contexts, wanted) log p(wanted | context) in nats."""
    found = dict(model.lm.scores([(context, ids) for context in contexts for ids in wanted], 32))
    return np.array([found[k][0] for k in range(len(found))]).reshape(len(contexts), len(wanted))


def log_mean(z: np.ndarray) -> np.ndarray:
    """log of the mean of exp(z) over the rows (n, m) -> (m,)."""
    return z.max(0) + np.log(np.exp(z - z.max(0)).mean(0))


def first_of(among: int, score: np.ndarray) -> list[float]:
    """Of a score (n, n) whose diagonal is right: how often the right one is the best of itself and among - 1 others, drawn
    without replacement; the exact expectation, and its standard error over the n queries."""
    beaten = (score < score.diagonal()[:, None]).sum(1)
    shares = np.array([comb(int(k), among - 1) / comb(len(score) - 1, among - 1) for k in beaten])
    return [round(float(shares.mean()), 4), round(float(shares.std(ddof=1) / len(shares) ** 0.5), 4)]


def sheet(model: Model, corpus: Corpus, number: int, out: Path) -> None:
    """A line for each text."""
    v, m = model.vocabulary, model.vocabulary.modalities[number]
    codec = model.lm.codecs[m.name]
    pairs = list(held_out_pairs(corpus.validation, number, SHOWN))
    texts = [model.lm.tokenizer.decode([i - v.modality(TEXT).first for i in text]) for text, _ in pairs]
    columns = [("after its tokenizer", [codec.decode(np.array(item[1:-1]) - m.first) for _, item in pairs])]
    for guidance, temperature in itertools.product(GUIDANCE, TEMPERATURES):
        sampling = Sampling(temperature, guidance=guidance)
        made = model.generate(texts, m.name, sampling=sampling)
        columns.append((f"guidance {guidance:g}\ntemperature {temperature:g}", [one.parts[0].value for one in made]))
    figure = Figure(figsize=(1.5 * len(columns), 1.5 * len(pairs) + 0.4), layout="constrained")
    panels = figure.subplots(len(pairs), len(columns), squeeze=False)
    for column, (title, items) in enumerate(columns):
        panels[0, column].set_title(title, fontsize=8)
        for line, item in enumerate(codec.drawn(items)):
            panels[line, column].imshow(item.transpose(1, 2, 0) if item.ndim == 3 else 1 - item[::-1], cmap="gray")
            panels[line, column].set(xticks=[], yticks=[])
    for line, text in enumerate(texts):
        panels[line, 0].set_ylabel(text[:28], fontsize=7)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
