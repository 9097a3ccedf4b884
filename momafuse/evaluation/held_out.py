"""The held-out loss of a trained run under named routing, by modality, source and task (tasks.py). One process.

`training` is the routing of pretraining: experts choose among all rows of a pool, later ones too, so it sees the future.
`causal` is that of inference, by auxiliary routers. A model without routers is causal under either name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from momafuse.checkpoint import store
from momafuse.config.compose import import_plugins, load_config
from momafuse.config.evaluate import EvaluateConfig
from momafuse.config.schema import Config
from momafuse.config.shares import fitted
from momafuse.data.corpus import Corpus
from momafuse.data.prepare import open_or_prepare
from momafuse.errors import UserError
from momafuse.evaluation.sequences import HeldOutSequences, held_out_sequences
from momafuse.evaluation.tasks import labels, places
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from momafuse.parallel.precision import resolve_device
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.setup import build_model
from momafuse.world import World

Named = Literal["training", "causal"]


@dataclass(frozen=True)
class Results:
    folder: Path  # of the run
    checkpoint: str
    seen: dict[str, float]  # step, tokens and FLOPs of the checkpoint
    corpus: str  # its path, where it is not the run's; else empty
    sequences: int
    causal_anyway: bool  # training is causal, too
    losses: dict[str, dict[str, tuple[float, int]]]  # routing -> name -> mean cross-entropy in nats, targets


def evaluate_run(e: EvaluateConfig) -> Results:
    """Raises UserError for a run, checkpoint or corpus that cannot be used, and for causal routing without its routers."""
    checkpoint = store.find(Path(e.run).expanduser(), "run")
    config = run_config(e, checkpoint)
    refuse_without_auxiliary(e, config)
    corpus = Corpus.open(e.data.path, config.tokenizer) if e.data.path else open_or_prepare(config)
    world = World(0, 1, resolve_device(e.device), None, None)
    state = store.read_state(checkpoint)
    model, _ = build_model(config, corpus.vocabulary, world)
    store.load(checkpoint, model, [], world)
    model.eval()
    routings: Sequence[Named] = ("training", "causal") if e.routing == "both" else (e.routing,)
    if not model.looks_ahead:
        routings = ("causal",)
    held_out = held_out_sequences(config, corpus)
    available, asked = held_out.plan.sequences_per_epoch, config.trainer.eval_sequences
    pool = config.router.pool if "training" in routings else 1  # causal routing has none
    sequences = min(asked, available) // pool * pool
    if not sequences:
        raise UserError(f"sequences={asked}: the held-out split has {available}, and experts choose in pools of {pool}")
    losses: dict[str, dict[str, tuple[float, int]]] = {
        r: _losses(config, model, corpus.vocabulary, held_out, sequences, r, world.device) for r in routings
    }
    folder = checkpoint.parent.parent
    other = str(corpus.path) if e.data.path else ""
    seen = {key: state[key] for key in ("step", "tokens", "flops")}
    return Results(folder, checkpoint.name, seen, other, sequences, not model.looks_ahead, losses)


def run_config(e: EvaluateConfig, checkpoint: Path) -> Config:
    """The run's config with what the command says of device and length; nothing compiled, any backend."""
    config = load_config(checkpoint / "config.yaml")
    import_plugins(config.plugins)
    asked = config.trainer.eval_sequences if e.sequences is None else e.sequences
    plain = replace(fitted(config, 1).trainer, device=e.device, eval_sequences=asked, backend="auto", compile=False)
    return replace(config, trainer=replace(plain, activation_checkpointing="none"))


def refuse_without_auxiliary(e: EvaluateConfig, config: Config) -> None:
    """UserError where causal routing is asked of a model whose routers see the future."""
    if config.needs_auxiliary and not config.router.auxiliary and e.routing != "training":
        train = f"python -m momafuse.train +experiment=aux_routers model_from={e.run}"
        problem = f"{e.run} has no auxiliary routers; write routing=training, or train them: {train}"
        raise UserError(f"routing={e.routing}: {problem}")


def _nll(targets: Tensor, hidden: Tensor, head: Tensor) -> Tensor:
    return next_token(hidden, head, targets, torch.ones_like(targets, dtype=torch.float32), 0.0).nll


@torch.no_grad()
def _losses(
    config: Config,
    model: Transformer,
    v: Vocabulary,
    held_out: HeldOutSequences,
    sequences: int,
    routing: Named,
    device: torch.device,
) -> dict[str, tuple[float, int]]:
    sums: dict[str, list[float]] = {}
    size = config.trainer.micro_batch
    console = Console(stderr=True)
    firsts = range(0, sequences, size)
    for first in track(firsts, f"routing={routing}", console=console, transient=True, disable=not console.is_terminal):
        numbers = range(first, min(first + size, sequences))
        host = held_out.loader.batch(numbers)
        targets = host.targets.flatten()
        batch = host.to(device)
        nll = model(batch, partial(_nll, batch.targets.flatten()), None, routing)[0].double().cpu().numpy()
        documents, place = places(held_out.split, held_out.plan, numbers)
        parts: dict[str, Any] = dict(labels(held_out.split, v, documents, place, targets.numpy()))
        modality = np.where(targets >= 0, v.modality_of_ids()[targets.clamp(min=0).numpy()], 255)
        parts |= {name: modality == m for m, name in enumerate(v.names)} | {"all": (targets >= 0).numpy()}
        for name, mask in parts.items():
            total = sums.setdefault(name, [0.0, 0.0])
            total[0], total[1] = total[0] + float(nll[mask].sum()), total[1] + int(mask.sum())
    order = ["all", *v.names]
    names = [*order, *(name for name in sums if name not in order)]
    return {name: (sums[name][0] / sums[name][1], int(sums[name][1])) for name in names if sums[name][1]}
