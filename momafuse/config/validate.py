"""What one field of a config cannot know of another: each broken rule is one line with the remedy.

Rules about the corpus (its budget, its tokenizers) need the corpus: see data/; those about checkpoints: see checkpoint/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from momafuse.config.broken import fail, signs
from momafuse.config.nearest import did_you_mean
from momafuse.config.schema import (
    EXPERT_LAYERS,
    CheckpointConfig,
    Config,
    LoopConfig,
    ModelConfig,
    OptimConfig,
    RunnableConfig,
    ScheduleConfig,
    TrainerConfig,
    share_key,
)
from momafuse.config.shares import fitted
from momafuse.config.validate_routers import check_router
from momafuse.config.validate_stages import check_stages
from momafuse.errors import UserError
from momafuse.routing.names import ALL, SHARED
from momafuse.tokens.vocabulary import TEXT

NAME = r"[^\s/\\.-][^/\\\n]{0,199}"


def validate(config: Config) -> None:
    """Raises UserError for the first rule that `config` breaks."""
    signs_of_run(config)
    _signs(config)
    _tokenizer(config.tokenizer)
    _heads(config.model)
    _experts(config.model, config.modalities)
    _towers(config.model, config.modalities)
    _layers(config.model, config.modalities)
    check_router(config)
    _auxiliary(config)
    _depth(config)
    _data(config)
    _objective(config)
    _optim(config.optim)
    _trainer(config.trainer, config)
    _upcycling(config)
    validate_run(config)


def validate_run(config: RunnableConfig) -> None:
    """The same of what the loop reads, whatever is trained."""
    _run(config)
    _schedule(config.optim)
    fitted(config, 1)
    _loop(config.trainer)
    _checkpoint(config.checkpoint)


def signs_of_run(config: RunnableConfig) -> None:
    t, o = config.trainer, config.optim
    above_zero: dict[str, float] = {
        "trainer.max_steps": t.max_steps,
        "trainer.global_batch": t.global_batch,
        "trainer.micro_batch": t.micro_batch,
        "trainer.log_every": t.log_every,
        "trainer.replicas": t.replicas,
        "trainer.timeout": t.timeout,
        "optim.lr": o.lr,
        "optim.grad_clip": 1 if o.grad_clip is None else o.grad_clip,
    }
    zero_or_above: dict[str, float] = {
        "run.seed": config.run.seed,
        "optim.lr_end": o.lr_end,
        "optim.warmup_steps": o.warmup_steps,
        "trainer.eval_every": t.eval_every,
        "trainer.max_skipped": t.max_skipped,
        "checkpoint.every": config.checkpoint.every,
    }
    signs(above_zero, zero_or_above)


def check_run_root(config: RunnableConfig) -> None:
    """Raises UserError where no run folder can be made in `run.root`, before hours of preparing; makes nothing."""
    folder("run.root", config.run.root)


def folder(key: str, name: str) -> None:
    root = Path(name)
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if not existing.is_dir():
        fail(key, name, f"{existing} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        fail(key, name, f"{existing} may not be written; name another folder")


def _signs(config: Config) -> None:
    m, r, d, t, o = config.model, config.router, config.data, config.trainer, config.optim
    above_zero: dict[str, float] = {
        "model.dim": m.dim,
        "model.n_layers": m.n_layers,
        "model.n_heads": m.n_heads,
        "model.ffn": m.ffn,
        "model.ffn_multiple_of": m.ffn_multiple_of,
        "model.vocabulary_size": 1 if m.vocabulary_size is None else m.vocabulary_size,
        "model.attention.rope_theta": m.attention.rope_theta,
        "router.pool": r.pool,
        "router.capacity_factor": r.capacity_factor,
        "router.top_k": r.top_k,
        "data.window": d.window,
        "optim.eps": o.eps,
        "trainer.eval_sequences": t.eval_sequences,
        **{f"data.sources.{name}.variants": s.variants for name, s in d.sources.items()},
    }
    zero_or_above: dict[str, float] = {
        "model.norm_eps": m.norm_eps,
        **{f"data.sources.{name}.weight": s.weight for name, s in d.sources.items()},
        "objective.z_loss": config.objective.z_loss,
        "optim.weight_decay": o.weight_decay,
        "trainer.probe": t.probe,
        "router.bias_rate": r.bias_rate,
        **{f"router.loss.{name}": getattr(r.loss, name) for name in ("balance", "importance", "load", "z")},
        "upcycling.weight_noise": config.upcycling.weight_noise,
        "upcycling.capacity_steps": config.upcycling.capacity_steps,
    }
    signs(above_zero, zero_or_above)


def _run(config: RunnableConfig) -> None:
    name = config.run.name
    if name is not None and not re.fullmatch(NAME, name):
        fail("run.name", name, "must be fit for a folder: 1 to 200 characters, no slash, not starting with . or -")
    if not config.run.root:
        fail("run.root", "''", "must name a folder, e.g. runs")
    if not config.resume:
        fail("resume", "''", "write auto, none or the path of a run or a checkpoint")


def _tokenizer(tokenizer: Mapping[str, str]) -> None:
    if TEXT not in tokenizer:
        raise UserError(f"tokenizer.{TEXT}: no value; write starter_bpe_v1 or the path of a sentencepiece model")


def _heads(model: ModelConfig) -> None:
    kv = model.attention.n_kv_heads
    if kv is not None and (kv < 1 or model.n_heads % kv):
        nearest = ", ".join(str(h) for h in range(1, model.n_heads + 1) if model.n_heads % h == 0)
        fail("model.attention.n_kv_heads", kv, f"must divide model.n_heads={model.n_heads}: {nearest}, or null for all")
    if model.attention.qk_norm_per_head and model.attention.qk_norm == "none":
        problem = "model.attention.qk_norm=none leaves no norm to have weights; write model.attention.qk_norm=rms or layer"
        fail("model.attention.qk_norm_per_head", "true", problem)
    fits = [h for h in range(1, model.dim + 1) if model.dim % h == 0 and model.dim // h % 2 == 0]
    if model.n_heads in fits:
        return
    if not fits:
        fail("model.dim", model.dim, "must be even, since rotary positions turn pairs of channels")
    below = [h for h in fits if h < model.n_heads][-1:]
    above = [h for h in fits if h > model.n_heads][:1]
    nearest = " or ".join(str(h) for h in below + above)
    problem = f"must divide model.dim={model.dim} into heads of an even width; the nearest that do: {nearest}"
    fail("model.n_heads", model.n_heads, problem)


def _layers(model: ModelConfig, modalities: Sequence[str]) -> None:
    """Rules about what layers are made of, beside heads and experts."""
    if not 0 <= model.dropout < 1:
        fail("model.dropout", model.dropout, "must be at least 0 and below 1")
    if model.dropout and model.placement == "swin":
        fail("model.dropout", model.dropout, "does not combine with norms after the sub-layers; add model.placement=pre")
    if len(set(model.untie)) < len(model.untie):
        fail("model.untie", f"[{', '.join(model.untie)}]", "names a part twice")
    for name, share in model.width_share.items():
        groups = model.groups(modalities)
        if name not in groups:
            fail(f"model.width_share.{name}", share, f"no such group{did_you_mean(name, groups)} ({', '.join(groups)})")
        if share <= 0:
            fail(f"model.width_share.{name}", share, "must be greater than 0, e.g. 0.3333")


def _experts(model: ModelConfig, modalities: Sequence[str]) -> None:
    names = (ALL, SHARED, *modalities)
    every, start = (model.experts.get(key, default) for key, default in EXPERT_LAYERS.items())
    _pattern("model.experts", every, start, model.n_layers)
    experts = {name: count for name, count in model.experts.items() if name not in EXPERT_LAYERS}
    written = "{" + ", ".join(f"{name}: {count}" for name, count in experts.items()) + "}"
    serving: dict[str, str] = {}  # modality -> the group that serves it
    for name, count in experts.items():
        for member in name.split("+"):
            known = names if member == name else modalities
            if member not in known:
                fail("model.experts", written, f"no modality {member}{did_you_mean(member, known)} ({', '.join(known)})")
            if other := serving.get(member):
                fail("model.experts", written, f"{other} and {name} both serve {member}; drop one")
            serving[member] = name
        if count < 1:
            fail(f"model.experts.{name}", count, "a group needs at least one expert; write null to drop the group")
    if ALL in experts and (others := [name for name in serving if name in modalities]):
        other = others[0]
        problem = f"all and {other} both serve {other}; drop one, e.g. model.experts.all=null"
        fail("model.experts", written, problem)
    for name in modalities:
        if ALL not in experts and name not in serving:
            fail("model.experts", written, f"no expert serves {name}; add model.experts.{name}=1")


def _towers(model: ModelConfig, modalities: Sequence[str]) -> None:
    written = "[" + ", ".join(f"[{', '.join(tower)}]" for tower in model.towers) + "]"
    named = [name for tower in model.towers for name in tower]
    for name in named:
        if name not in modalities:
            fail("model.towers", written, f"no modality {name}{did_you_mean(name, modalities)} ({', '.join(modalities)})")
        if named.count(name) > 1:
            fail("model.towers", written, f"names {name} twice; a modality has one tower")
    if model.towers and not model.untie:
        fail("model.towers", written, "nothing is untied, so all share everything; add model.untie=[qkv, out, norms, ffn]")


def _pattern(key: str, every: int, start: int, layers: int) -> None:
    if every < 1:
        fail(f"{key}.every", every, "must be at least 1")
    if not 0 <= start < layers:
        fail(f"{key}.start", start, f"must name one of the {layers} layers, 0 to {layers - 1}")


def _depth(config: Config) -> None:
    depth = config.model.depth
    if depth is None:
        return
    _pattern("model.depth", depth.every, depth.start, config.model.n_layers)
    if not 0 < depth.capacity <= 1:
        fail("model.depth.capacity", depth.capacity, "must be above 0 and at most 1, e.g. 0.25")
    ragged = (
        len(config.model.groups(config.modalities)) > 1
        or any(n > 1 for n in config.model.experts.values())
        or config.model.untie
    )
    if not depth.per_modality and ragged and config.trainer.backend in ("bmm", "grouped_mm"):
        problem = "only the device knows the counts of model.depth.per_modality=false; write trainer.backend=auto"
        fail("trainer.backend", config.trainer.backend, problem)


def _auxiliary(config: Config) -> None:
    source = config.model_from
    if not config.router.auxiliary:
        if source is not None:
            fail("model_from", source, "goes with +experiment=aux_routers; to go on training write resume=...")
        return
    if source is None:
        fail("router.auxiliary", "true", "these learn from a trained model: +experiment=aux_routers model_from=RUN")
    if not config.needs_auxiliary:
        problem = f"{config.model.name} has no router that looks at later rows; it chooses causally as it is"
        fail("model_from", source, problem)
    if config.trainer.compile is True:
        fail("trainer.compile", "true", "is not for the stage of auxiliary routers; write false")


def _data(config: Config) -> None:
    data = config.data
    if not data.sources:
        fail("data.sources", "{}", "name at least one source, e.g. data=starter")
    if not 0 <= data.max_rejects <= 1:
        fail("data.max_rejects", data.max_rejects, "must lie between 0 and 1: a share of the documents")
    for name, source in data.sources.items():
        for key, good, rule in (
            ("held_out", 0 <= source.held_out <= 1, "must lie between 0 and 1: a share of the documents"),
            ("limit", source.limit is None or source.limit >= 1, "must be at least 1, or null for all documents"),
            ("most_aspect", source.most_aspect is None or source.most_aspect >= 1, "must be at least 1: length by width"),
        ):
            if not good:
                fail(f"data.sources.{name}.{key}", getattr(source, key), rule)
    if data.sequence_length < 2:
        fail("data.sequence_length", data.sequence_length, "must be at least 2")
    for name, share in data.shares(config.modalities).items():
        if name == TEXT or name not in config.modalities:
            hint = did_you_mean(name, config.modalities) or f"; give it a codec by tokenizer.{name}"
            problem = f"{TEXT} takes what is left" if name == TEXT else f"no such modality{hint}"
            fail(f"data.share.{name}", share, problem)
        if not isinstance(share, str) and not 0 < share < 1:
            fail(share_key(name), share, "must lie between 0 and 1, e.g. 0.5, or be `experts`")
        if share == "experts" and ALL in config.model.groups(config.modalities):
            problem = "needs experts of each modality; give a number, e.g. 0.5, or choose model=moma"
            fail(share_key(name), share, problem)
    check_stages(data)


def _objective(config: Config) -> None:
    weight = config.objective.weight
    for name, value in weight.items():
        if name not in config.modalities:
            fail(f"objective.weight.{name}", value, f"no such modality{did_you_mean(name, config.modalities)}")
        if value < 0:
            fail(f"objective.weight.{name}", value, "must not be negative")
    for name in config.modalities:
        if name not in weight:
            raise UserError(f"objective.weight.{name}: no value; write objective.weight.{name}=1.0")
    if not any(weight.values()):
        fail("objective.weight", weight, "at least one modality must weigh more than 0")


def _optim(optim: OptimConfig) -> None:
    for key, beta in (("optim.beta1", optim.beta1), ("optim.beta2", optim.beta2)):
        if not 0 <= beta < 1:
            fail(key, beta, "must be at least 0 and below 1")
    if not optim.train:
        fail("optim.train", "[]", "no parameter would learn; write ['*'] for all")


def _schedule(optim: ScheduleConfig) -> None:
    if optim.lr_end > optim.lr:
        fail("optim.lr_end", optim.lr_end, f"must be at most optim.lr={optim.lr}")
    steps = optim.schedule_steps
    if steps is not None and steps <= optim.warmup_steps:
        fail("optim.schedule_steps", steps, f"must be more than optim.warmup_steps={optim.warmup_steps}")


def _loop(trainer: LoopConfig) -> None:
    try:
        trainer.profiled()
    except ValueError:
        fail("trainer.profile", trainer.profile, "must be FIRST:LAST, e.g. 10:13, or null")
    if trainer.skip_spikes is not None and trainer.skip_spikes <= 1:
        fail("trainer.skip_spikes", trainer.skip_spikes, "must be above 1, e.g. 10, or null")


def _trainer(trainer: TrainerConfig, config: Config) -> None:
    dim, multiple = config.model.dim, config.model.ffn_multiple_of
    if trainer.backend == "grouped_mm" and (dim % 8 or multiple % 8):
        problem = f"wants model.dim={dim} and model.ffn_multiple_of={multiple} to be multiples of 8; write trainer.backend=auto"
        fail("trainer.backend", "grouped_mm", problem)
    tokens = trainer.global_batch * config.data.sequence_length
    if trainer.max_tokens is not None and trainer.max_tokens < tokens:
        fail("trainer.max_tokens", trainer.max_tokens, f"is less than one step; at least {tokens}")


def _checkpoint(checkpoint: CheckpointConfig) -> None:
    every, keep = checkpoint.every, checkpoint.keep_every
    if checkpoint.keep_last < 1:
        fail("checkpoint.keep_last", checkpoint.keep_last, "must be at least 1: the newest checkpoint stays")
    if keep is None:
        return
    if keep < 1:
        fail("checkpoint.keep_every", keep, "must be at least 1, or null")
    if not every or keep % every:
        problem = "must be a multiple of checkpoint.every={}, the steps that are saved".format(every or "0 (only the end)")
        fail("checkpoint.keep_every", keep, problem + (f", e.g. {max(1, round(keep / every)) * every}" if every else ""))


def _upcycling(config: Config) -> None:
    u = config.upcycling
    if config.upcycle == "":
        fail("upcycle", "''", "write the path of a run or a checkpoint, or null")
    if not 0 <= u.redraw < 1:
        fail("upcycling.redraw", u.redraw, "must be at least 0 and below 1, e.g. 0.5")
    if config.upcycle is not None and u.capacity_steps and config.trainer.compile is True:
        problem = "every block would be compiled again on each of these steps; write trainer.compile=false"
        fail("upcycling.capacity_steps", u.capacity_steps, problem)
