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
from momafuse.config.compose import load_config
from momafuse.config.evaluate import EvaluateConfig
from momafuse.config.inherit import config_file
from momafuse.config.schema import Config
from momafuse.data.budget import modality_budget
from momafuse.data.corpus import Corpus
from momafuse.data.loader import Loader
from momafuse.data.packing import PackPlan
from momafuse.data.prepare import open_or_prepare
from momafuse.errors import UserError
from momafuse.evaluation.tasks import labels, places
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from momafuse.parallel.precision import resolve_device
from momafuse.training.setup import HELD_OUT_SEED, build_model
from momafuse.world import World

Named = Literal["training", "causal"]


@dataclass(frozen=True)
class Results:
    folder: Path  # of the run
    checkpoint: str
    corpus: str  # its path, where it is not the run's; else empty
    sequences: int
    causal_anyway: bool  # no router chooses rows
    losses: dict[str, dict[str, tuple[float, int]]]  # routing -> name -> mean cross-entropy in nats, targets


def evaluate_run(e: EvaluateConfig) -> Results:
    """Raises UserError for a run, checkpoint or corpus that cannot be used, and for causal routing without its routers."""
    config = run_config(e)
    checkpoint = store.find(Path(e.run).expanduser())
    refuse_without_auxiliary(e, config)
    corpus = Corpus.open(e.data.path, config.tokenizer) if e.data.path else open_or_prepare(config)
    world = World(0, 1, resolve_device(e.device), None, None)
    store.verify(checkpoint)
    model, _ = build_model(config, corpus.vocabulary, world)
    store.load(checkpoint, model, None, world)
    model.eval()
    routings: Sequence[Named] = ("training", "causal") if e.routing == "both" else (e.routing,)
    if not model.routes:
        routings = ("causal",)
    loader, plan = held_out(config, corpus)
    pool, asked = config.router.pool, config.trainer.eval_sequences
    sequences = min(asked, plan.sequences_per_epoch) // pool * pool
    if not sequences:
        raise UserError(f"sequences={asked}: the held-out split has {plan.sequences_per_epoch}, and experts choose in {pool}s")
    losses: dict[str, dict[str, tuple[float, int]]] = {
        r: _losses(config, model, corpus, loader, plan, sequences, r, world.device) for r in routings
    }
    folder = checkpoint.parent.parent
    other = str(corpus.path) if e.data.path else ""
    return Results(folder, checkpoint.name, other, sequences, not model.routes, losses)


def run_config(e: EvaluateConfig) -> Config:
    """The run's config with what the command says of device and length; nothing compiled, any backend."""
    config = load_config(config_file(e.run, "run"))
    asked = config.trainer.eval_sequences if e.sequences is None else e.sequences
    plain = replace(config.trainer, device=e.device, eval_sequences=asked, backend="auto", compile=False)
    return replace(config, trainer=replace(plain, activation_checkpointing="none"))


def refuse_without_auxiliary(e: EvaluateConfig, config: Config) -> None:
    """UserError where causal routing is asked of a model whose routers see the future."""
    routed = config.model.depth is not None or any(
        n > 1 for name, n in config.model.groups(("text", "image")).items() if name != "shared"
    )
    if routed and not config.router.auxiliary and e.routing != "training":
        train = f"python -m momafuse.train +experiment=aux_routers model_from={e.run}"
        problem = f"{e.run} has no auxiliary routers; write routing=training, or train them: {train}"
        raise UserError(f"routing={e.routing}: {problem}")


def held_out(config: Config, corpus: Corpus) -> tuple[Loader, PackPlan]:
    """The held-out sequences, the same for every run on a corpus. A corpus of one modality fills them as it can."""
    v, split = corpus.vocabulary, corpus.validation
    budget = _budget(config, corpus)
    weights = dict.fromkeys(corpus.manifest["sources"], 1.0) | {name: x.weight for name, x in config.data.sources.items()}
    plan = PackPlan(split, budget, weights, HELD_OUT_SEED, config.data.window)
    return Loader(split, v, plan, budget, False), plan


def _budget(config: Config, corpus: Corpus) -> tuple[int, ...]:
    v, length = corpus.vocabulary, config.data.sequence_length
    pictured = [s for s in corpus.validation.sources if s.pictures]
    if not pictured:
        return tuple(length if name == "text" else 0 for name in v.names)
    if any(s.documents and not s.pictures for s in corpus.validation.sources):
        return modality_budget(config.data, v, config.model.groups(v.names))
    pictures, text = sum(s.pictures for s in pictured), sum(s.text_tokens for s in pictured)
    each, block = -(-text // pictures), v.modality("image").block
    n = max(1, length // (block + each))
    return tuple(n * {"text": each, "image": block}.get(name, 0) for name in v.names)


def _nll(targets: Tensor, hidden: Tensor, head: Tensor) -> Tensor:
    return next_token(hidden, head, targets, torch.ones_like(targets, dtype=torch.float32), 0.0).nll


@torch.no_grad()
def _losses(
    config: Config,
    model: Transformer,
    corpus: Corpus,
    loader: Loader,
    plan: PackPlan,
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
        host = loader.batch(numbers)
        targets = host.targets.flatten()
        batch = host.to(device)
        nll = model(batch, partial(_nll, batch.targets.flatten()), None, routing)[0].double().cpu().numpy()
        documents, place = places(corpus.validation, plan, numbers)
        parts: dict[str, Any] = dict(labels(corpus.validation, corpus.vocabulary, documents, place, targets.numpy()))
        modality = np.where(targets >= 0, corpus.vocabulary.modality_of_ids()[targets.clamp(min=0).numpy()], 255)
        parts |= {name: modality == m for m, name in enumerate(corpus.vocabulary.names)} | {"all": (targets >= 0).numpy()}
        for name, mask in parts.items():
            total = sums.setdefault(name, [0.0, 0.0])
            total[0], total[1] = total[0] + float(nll[mask].sum()), total[1] + int(mask.sum())
    order = ["all", *corpus.vocabulary.names]
    names = [*order, *(name for name in sums if name not in order)]
    return {name: (sums[name][0] / sums[name][1], int(sums[name][1])) for name in names if sums[name][1]}
