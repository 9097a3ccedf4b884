"""What the loop runs on: device, precision, corpus, budget, model, optimizer and loaders, made from a config."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.optim import AdamW

from momafuse.config.schema import Config
from momafuse.data.budget import modality_budget
from momafuse.data.corpus import Corpus
from momafuse.data.loader import Loader
from momafuse.data.packing import PackPlan
from momafuse.data.stages import StagedPlan, check_changes
from momafuse.errors import UserError
from momafuse.kernels.experts import check_backend, leaves_sizes
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.parallel.checkpointing import apply_activation_checkpointing
from momafuse.parallel.compilation import apply_compile, compiles
from momafuse.parallel.graphs import check_graphs
from momafuse.parallel.host_memory import keep_freed_memory
from momafuse.parallel.precision import Working, apply_precision, resolve_precision, working
from momafuse.parallel.sharding import holds, shard
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.optimizer import build_optimizer, freeze
from momafuse.world import World

HELD_OUT_SEED = 0  # the held-out sequences are the same for every run on a corpus


@dataclass(frozen=True)
class Setup:
    world: World
    dtype: torch.dtype
    model: Transformer
    working: Working  # the model computes under it: forward, backward and evaluation
    optimizer: AdamW
    plan: StagedPlan
    train: Loader
    held_out: Loader
    held_out_sequences: int


def check_vocabulary(config: Config, v: Vocabulary) -> tuple[int, ...]:
    """The modality budget; UserError where the ids of the tokenizers do not fit the model or the budget."""
    rows = config.model.vocabulary_size
    if rows is not None and rows < v.size:
        raise UserError(f"model.vocabulary_size={rows}: the tokenizers have {v.size} ids; give at least that many, or null")
    return modality_budget(config.data, v, config.model.groups(v.names))


def build(config: Config, corpus: Corpus, world: World, begins: Sequence[int] = ()) -> Setup:
    """`begins`: the sequence that each of data.stages begins with. Raises UserError where the corpus cannot give the sequences
    that the config asks for."""
    v = corpus.vocabulary
    budget = check_vocabulary(config, v)
    plan = training_plan(config, corpus, budget, begins)
    check_graphs(config, world.device, sharded=world.mesh is not None)
    held_out_plan = PackPlan(corpus.validation, budget, config.data.held_out_weights(), HELD_OUT_SEED, config.data.window)
    answers_only = config.objective.answers_only
    sequences = _held_out_sequences(config, held_out_plan.sequences_per_epoch)  # before a model of any size is made
    model, dtype = build_model(config, v, world)
    return Setup(
        world=world,
        dtype=dtype,
        model=model,
        working=nullcontext if world.mesh is not None else working(model, dtype),
        optimizer=build_optimizer(model, config.optim),
        plan=plan,
        train=Loader(corpus.train, v, plan, budget, answers_only),
        held_out=Loader(corpus.validation, v, held_out_plan, budget, answers_only),
        held_out_sequences=sequences,
    )


def training_plan(config: Config, corpus: Corpus, budget: tuple[int, ...], begins: Sequence[int]) -> StagedPlan:
    """Arguments as build's. Raises UserError where the corpus cannot give the sequences that the config asks for."""
    if not corpus.train.documents:
        raise UserError(
            f"data.path={corpus.path}: this corpus holds held-out documents alone; choose data= that can be trained on"
        )
    weights = [config.data.weights(stages) for stages in range(len(config.data.stages) + 1)]
    plan = StagedPlan(corpus.train, budget, weights, begins, config.run.seed, config.data.window)
    check_changes(plan)
    return plan


def build_model(config: Config, v: Vocabulary, world: World) -> tuple[Transformer, torch.dtype]:
    """The initialised model on its device, with everything applied to it that the config asks for, and its precision.

    It is made without memory and filled when it is sharded, so that no rank ever holds the whole of it.
    """
    t = config.trainer
    dtype = resolve_precision(t.precision, world.device)
    check_backend(t.backend, world.device)
    if world.device.type == "cpu":
        keep_freed_memory()
    with torch.device("meta"):
        model = Transformer(config.model, config.router, vocabulary_size=v.size, modality_names=v.names, backend=t.backend)
    freeze(model, config.optim.train)
    apply_precision(model, dtype)
    apply_activation_checkpointing(model, t.activation_checkpointing)
    ragged = leaves_sizes(t.backend, world.device)
    if compiles(config, model, world.device, ragged=ragged):
        apply_compile(model, ragged=ragged)
    if world.mesh is not None:
        shard(model, world.mesh, dtype, torch.bfloat16 if t.reduce_dtype == "bf16" else torch.float32)
    model.to_empty(device=world.device)
    initialise(model, config.run.seed, holds)
    return model, dtype


def _held_out_sequences(config: Config, available: int) -> int:
    """Whole pools, of at most one pass over the held-out split; of models that choose nothing, too, so that they compare."""
    pool = config.router.pool
    n = min(config.trainer.eval_sequences, available) // pool * pool
    if not n:
        raise UserError(
            f"trainer.eval_sequences={config.trainer.eval_sequences}: the held-out split has {available} sequences of "
            f"{config.data.sequence_length} tokens, less than a pool (router.pool={pool}); prepare more data: what is embedded "
            "is enough for size=nano, not for longer sequences (docs/data.md)"
        )
    return n
