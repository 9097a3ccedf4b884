"""Golden losses: frozen ids, micro size, fp32, one thread; every member's losses, so that a refactor must reproduce them.

    python -m tests.golden.golden        writes this kind of CPU's part of losses.json anew; say why in the commit

`sequences.npz` holds packed sequences of starter documents: ids, targets and document numbers.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import torch

from momafuse.config.compose import compose
from momafuse.data.batch import Batch, begins_of
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from momafuse.routing.noise import logistic_noise
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.optimizer import build_optimizer, set_learning_rate
from momafuse.training.routers import RouterWork
from momafuse.training.schedule import learning_rate
from momafuse.world import World

HERE = Path(__file__).parent
MEMBERS = (
    "dense", "moe_1t1i", "moma_2t2i", "moma_4t4i", "moe_8x", "moma_6t2i", "moma_7t1i", "moma_1t7i", "moma_3t5i",
    "mod_dense", "mod_moe_1t1i", "mod_moma_4t4i", "mot", "mot_ffn_only", "mot_text_moe4", "moe_token_choice", "moe_top2",
    "moe_loss_free", "limoe_router", "moma_threshold",
)  # fmt: skip
VOCABULARY = Vocabulary.build(4088, image=(8192, 64))
STEPS, BATCH = 50, 4


def machine() -> dict[str, str]:
    """On one kind of machine losses are equal to the last digit; libraries of products have code for each vendor."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    vendor = next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), platform.processor())
    return {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(), "vendor": vendor}


def load_batches() -> list[Batch]:
    with np.load(HERE / "sequences.npz") as stored:
        tokens, targets, document = (stored[name].astype(np.int64) for name in ("tokens", "targets", "document"))
    table = VOCABULARY.modality_of_ids()
    batches = []
    for i in range(0, len(tokens), BATCH):
        part = tokens[i : i + BATCH]
        modality = table[part]
        batches.append(
            Batch(
                tokens=torch.from_numpy(part),
                targets=torch.from_numpy(targets[i : i + BATCH]),
                modality=torch.from_numpy(modality),
                document=torch.from_numpy(document[i : i + BATCH].astype(np.int32)),
                position=torch.arange(part.shape[1], dtype=torch.int32).expand(BATCH, -1).contiguous(),
                sequence=torch.arange(i, i + BATCH),
                begins=begins_of(torch.from_numpy(document[i : i + BATCH])),
                order=torch.from_numpy(np.argsort(modality.reshape(-1), kind="stable")),
                budget=tuple(int((modality[0] == m).sum()) for m in range(len(VOCABULARY.modalities))),
            )
        )
    return batches


def golden_losses(experiment: str, steps: int, noise: bool = False) -> list[float]:
    """The losses (z-loss included) of the first steps of one member, trained with AdamW and noise if asked."""
    torch.set_num_threads(1)  # sums over two threads are rounded otherwise, and a near tie falls to another expert
    config = compose([f"+experiment={experiment}", "size=micro"]).config
    model = Transformer(config.model, config.router, vocabulary_size=VOCABULARY.size, modality_names=VOCABULARY.names)
    initialise(model, seed=0)
    optimizer = build_optimizer(model, config.optim)
    routers = RouterWork(model, World(0, 1, torch.device("cpu"), None, None), 1)
    batches, losses = load_batches(), []
    for step in range(1, steps + 1):
        batch = batches[(step - 1) % len(batches)]
        targets = batch.targets.flatten()
        weights = torch.full(targets.shape, 1 / int((targets >= 0).sum()))
        drawn = logistic_noise(batch, seed=0, step=step, layers=len(model.blocks), experts=model.n_experts) if noise else None
        loss, decisions = model(batch, lambda h, w, t=targets, v=weights: next_token(h, w, t, v, 1e-5).total, drawn)
        routers.begin()
        of_routers, sums = routers.of_micro_batch(batch, decisions, torch.ones(()))
        (loss if of_routers is None else loss + of_routers).backward()
        set_learning_rate(optimizer, learning_rate(step, peak=3e-3, end=3e-4, warmup=5, total=STEPS, shape="cosine"))
        optimizer.step()
        routers.update(sums)
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def write_sequences(corpus: Path) -> None:
    """Freeze the first sequences of the plan of a prepared starter corpus (once)."""
    from momafuse.data.corpus import Corpus
    from momafuse.data.loader import Loader
    from momafuse.data.packing import PackPlan

    split = Corpus.open(corpus).train
    budget = (128, 128)
    plan = PackPlan(split, budget, {s.name: 1.0 for s in split.sources}, 0, 1024)
    batch = Loader(split, VOCABULARY, plan, budget).batch(range(10 * BATCH))
    np.savez_compressed(
        HERE / "sequences.npz",
        tokens=batch.tokens.numpy().astype(np.uint16),
        targets=batch.targets.numpy().astype(np.int16),
        document=batch.document.numpy().astype(np.uint8),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    losses = {name: golden_losses(name, STEPS) for name in MEMBERS}
    losses["moma_4t4i noise"] = golden_losses("moma_4t4i", STEPS, noise=True)
    file = HERE / "losses.json"
    kinds = json.loads(file.read_text())
    at = next((n for n, kind in enumerate(kinds) if kind["machine"] == machine()), len(kinds))
    kinds[at : at + 1] = [{"machine": machine(), "losses": losses}]
    file.write_text(json.dumps(kinds, indent=1) + "\n")
