"""Seconds that a token takes in generation, with and without kept keys and values, of trained runs side by side.

    python scripts/bench_generation.py runs/dense runs/demo-aux_routers [--tokens 192] [--batch 1] [--rounds 8]

Each run takes the same document of words and whole pictures, id by id, as if it had chosen them.
JSON: milliseconds of a step of all sequences by run, with the cache, the ratio to the first run, and how many times as long a
step without a cache takes at the last of the tokens: all rows of all sequences, logits of the last ones.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from timing import facts, milliseconds, paired, ratio, write

import momafuse
from momafuse.generation.decoder import Decoder
from momafuse.interface import Model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders, the one that others are compared with first")
    parser.add_argument("--tokens", type=int, default=192, help="ids of a sequence at the end, the prompt's included")
    parser.add_argument("--batch", type=int, default=1, help="sequences at a time")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    models = {run: momafuse.load(run) for run in asked.runs}
    ids = {run: sequence(model, asked.tokens) for run, model in models.items()}
    device = next(iter(models.values())).lm.device
    cached = paired({run: lambda m=m, i=ids[run]: decode(m, i, asked.batch) for run, m in models.items()}, asked.rounds, device)
    whole = paired({run: lambda m=m, i=ids[run]: forward(m, i, asked.batch) for run, m in models.items()}, asked.rounds, device)
    base = asked.runs[0]
    found = {
        run: {
            "step_ms": milliseconds([t / asked.tokens for t in cached[run]]),
            "tokens_a_second": round(asked.batch * asked.tokens / statistics.median(cached[run])),
            "ratio": ratio(cached[run], cached[base]),
            "whole_forward_ms": milliseconds(whole[run]),
            "faster_than_whole": round(statistics.median(whole[run]) / statistics.median(cached[run]) * asked.tokens, 2),
        }
        for run in models
    }
    write({"runs": found, "tokens": asked.tokens, "batch": asked.batch, **facts(device)}, asked.out)


def sequence(model: Model, tokens: int) -> list[int]:
    """A document of text and whole pictures, as training has them, of codes and words that are drawn once."""
    v, draws = model.vocabulary, torch.Generator().manual_seed(0)
    text, ids = v.modality("text"), [v.specials.bos]
    while len(ids) < tokens:
        ids += torch.randint(text.first, text.last + 1, (20,), generator=draws).tolist()
        for m in v.modalities[1:]:
            codes = torch.randint(m.first, m.last + 1, (m.block or 20,), generator=draws).tolist()
            ids += [*m.frame[:1], *codes, *m.frame[1:]]
    return ids[:tokens]


def forward(model: Model, ids: list[int], batch: int) -> None:
    Decoder(model.lm.model, model.vocabulary, len(ids)).start([ids] * batch)


def decode(model: Model, ids: list[int], batch: int) -> None:
    decoder = Decoder(model.lm.model, model.vocabulary, len(ids))
    decoder.start([ids[:1]] * batch)
    for i in ids[1:]:
        decoder.step([i] * batch)


if __name__ == "__main__":
    main()
