"""The model of the checkpoint in data/format_1, and how that was made: `python -m tests.checkpoint.format_1 NEW_FOLDER`.

It stays as it is: it stands for what was saved by older versions. Another format gets a folder of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim import AdamW

from momafuse.checkpoint.saving import Keep, Saver
from momafuse.config.compose import compose
from momafuse.training.optimizer import build_optimizer
from momafuse.world import World
from tests.batches import make_model
from tests.checkpoint.ranks import held, learn

DATA = Path(__file__).parent / "data" / "format_1"


def tiny(seed: int) -> tuple[nn.Module, AdamW]:
    model = make_model({"all": 1}, dim=8, ffn=12, layers=1, vocabulary=16, seed=seed)
    return model, build_optimizer(model, compose(["+experiment=dense", "size=micro"]).config.optim)


def main(folder: Path) -> None:
    model, optimizer = tiny(seed=0)
    learn(model, optimizer)
    with Saver(folder, Keep(1), World(0, 1, torch.device("cpu"), None, None)) as saver:
        saver.save(1, model, [optimizer], {"step": 1, "tokens": 64}, "a: 1\n")
    (folder / "expected.json").write_text(json.dumps(held(model, optimizer), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
