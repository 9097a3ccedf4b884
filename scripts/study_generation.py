"""Whether what a run draws and writes has to do with what it was asked for: likelihoods of held-out pairs, and a sheet.

    python scripts/study_generation.py runs/moma_4t4i-aux_routers       # docs/results/generation.{json,png}

The right one of 20: of each held-out pair, log p(picture | its text) among 20 pictures and log p(text | its picture) among 20
texts, as they are and less log p without the other (which takes out what is likely anyway: white pictures, short texts). The
sheet: eight held-out texts, their pictures after the tokenizer, and what is drawn at each guidance and temperature.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    model = momafuse.load(asked.run)
    corpus = open_or_prepare(load_config(store.find(Path(asked.run)) / "config.yaml"))
    number = model.modalities.index(asked.modality)
    pairs = distinct(list(held_out_pairs(corpus.validation, number, 10 * asked.queries)), asked.queries, model)
    found = {"run": asked.run, "among": AMONG, "queries": len(pairs), "chance": 1 / AMONG, **retrieval(model, pairs)}
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
    """Shares of queries whose own partner is the likeliest of `AMONG`."""
    draws = np.random.default_rng(0)
    n, bos = len(pairs), [model.vocabulary.specials.bos]
    others = [[i, *draws.choice([j for j in range(n) if j != i], AMONG - 1, replace=False).tolist()] for i in range(n)]
    found: dict[str, Any] = {}
    for name, given, wanted in (("item_of_text", 0, 1), ("text_of_item", 1, 0)):
        asked = [(i, j) for i in range(n) for j in others[i]]
        contexts = [([*bos, *pairs[i][given]], pairs[j][wanted]) for i, j in asked]
        likely = dict(model.lm.scores(contexts, 32))
        alone = dict(model.lm.scores([(bos, pair[wanted]) for pair in pairs], 32))
        z = np.array([likely[k][0] for k in range(len(asked))]).reshape(n, AMONG)
        prior = np.array([[alone[j][0] for j in row] for row in others])
        found[name] = {
            "likelihood": float((z.argmax(1) == 0).mean()),
            "likelihood_ratio": float(((z - prior).argmax(1) == 0).mean()),
        }
    return found


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
