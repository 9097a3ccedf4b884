"""The frozen dataclasses that every part of momafuse is configured by.

Hydra composes YAML from `configs/`; `config.convert` turns the result into these classes, with an error for every
unknown key; `config.validate` checks what one field cannot know of another. Nothing below the entry points ever sees a
DictConfig. Defaults live in `configs/`, not here: a field without a value in YAML is an error, so that the printed
config is whole.

Lengths are in tokens, batches in sequences, steps in optimizer steps, learning rates per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunConfig:
    name: str | None  # None: the experiment and the overrides that change results
    root: str
    seed: int


@dataclass(frozen=True)
class AttentionConfig:
    qk_norm: bool
    rope_theta: float
    document_mask: bool  # True: a position sees its own document only


@dataclass(frozen=True)
class ModelConfig:
    """A decoder; `experts` counts the experts of each group: a modality's name, or `all` (every modality)."""

    name: str
    dim: int
    n_layers: int
    n_heads: int
    ffn: int  # the papers' "ffn" (4 * dim): the width before SwiGLU's 2/3
    ffn_multiple_of: int  # the expert width int(2/3 * ffn) is rounded up to this
    placement: Literal["swin", "pre"]
    norm_eps: float
    attention: AttentionConfig
    experts: dict[str, int]


@dataclass(frozen=True)
class RouterConfig:
    pool: int  # consecutive global sequences that experts choose from together
    capacity_factor: float
    noise: bool  # Gumbel-sigmoid noise in training; always off in evaluation


@dataclass(frozen=True)
class SourceConfig:
    """One source of documents; `reader` names an entry of the registry in momafuse.data.sources."""

    reader: str
    path: str | None
    weight: float  # share of the image budget (sources with images) or of the text that is left (text-only sources)
    variants: int  # versions of each training picture (flip, small shifts); 1: as it is


@dataclass(frozen=True)
class DataConfig:
    name: str
    path: str | None  # the prepared corpus; None: corpora/NAME-HASH, prepared on first use
    sources: dict[str, SourceConfig]
    sequence_length: int
    image_share: float | Literal["experts"]  # share of image tokens in every sequence
    window: int  # documents of one independent window of the pack plan


@dataclass(frozen=True)
class TokenizerConfig:
    text: str  # a shipped name or the path of a sentencepiece model
    image: str  # a shipped name or the path of VQ weights (safetensors)


@dataclass(frozen=True)
class ObjectiveConfig:
    weight: dict[str, float]  # per modality of the target
    z_loss: float


@dataclass(frozen=True)
class OptimConfig:
    lr: float
    lr_end: float
    warmup_steps: int
    schedule: Literal["linear", "cosine"]
    schedule_steps: int | None  # None: trainer.max_steps of the first start, kept in the checkpoint from then on
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    grad_clip: float


@dataclass(frozen=True)
class TrainerConfig:
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]  # of the model; parameters, optimizer, routers and the loss stay fp32
    backend: Literal["auto", "reference", "bmm"]  # of the expert op
    max_steps: int
    max_tokens: int | None
    global_batch: int
    micro_batch: int
    eval_every: int  # steps; 0: only at the end
    eval_sequences: int
    log_every: int  # steps between console lines where the output is no terminal


@dataclass(frozen=True)
class CheckpointConfig:
    every: int  # steps; 0: only at the end
    keep_last: int  # complete checkpoints that stay


@dataclass(frozen=True)
class LoggerConfig:
    wandb: Literal["offline", "online", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]


@dataclass(frozen=True)
class Config:
    """Everything that `python -m momafuse.train` and `momafuse.prepare` read."""

    run: RunConfig
    model: ModelConfig
    router: RouterConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    objective: ObjectiveConfig
    optim: OptimConfig
    trainer: TrainerConfig
    checkpoint: CheckpointConfig
    logger: LoggerConfig
    resume: str  # auto | none | the path of a run or a checkpoint
    plugins: list[str]  # modules imported first: they may register sources
