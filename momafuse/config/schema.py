"""The frozen dataclasses that every part of momafuse is configured by.

Hydra composes YAML from `configs/`; `config.convert` turns the result into these classes, with an error for every
unknown key; `config.validate` checks what one field cannot know of another. Nothing below the entry points ever sees a
DictConfig. Defaults live in `configs/`, not here: a field without a value in YAML is an error, so that the printed
config is whole. Only what stands in a mapping of the user's own names (a source) has its defaults here, for there is no file
that could give them.

Lengths are in tokens, batches in sequences, steps in optimizer steps, learning rates per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from momafuse.routing.config import RouterConfig
from momafuse.routing.names import ALL, SHARED
from momafuse.tokens.vocabulary import TEXT

EXPERT_LAYERS = {"every": 1, "start": 0}  # keys of `model.experts` that are no groups, and what they are if not given


@dataclass(frozen=True)
class RunConfig:
    name: str | None  # None: the experiment and the overrides that change results
    root: str
    seed: int


@dataclass(frozen=True)
class AttentionConfig:
    n_kv_heads: int | None  # heads of keys and values (grouped queries); None: as many as model.n_heads
    qk_norm: Literal["rms", "layer", "none"]  # over the head dimension, before the rotation
    qk_norm_per_head: bool  # True: every head has a scale (and a bias) of its own, as in Chameleon's released weights
    rope_theta: float
    document_mask: bool  # True: a position sees its own document only


@dataclass(frozen=True)
class DepthConfig:
    """Mixture of depths: the layers start, start + every, ... compute a share of their rows."""

    every: int
    start: int
    capacity: float  # share of the rows that are kept
    per_modality: bool  # True: that share of each modality in each sequence; False: of all rows of the pool together


@dataclass(frozen=True)
class ModelConfig:
    """A decoder; `experts` counts the experts of each group: a modality's name, `all` (every modality), `shared` (always on).

    Two more keys of `experts` say which layers have them: start, start + every, ...; the others have one dense FFN.
    """

    name: str
    vocabulary_size: int | None  # rows of embedding and head; None: as many ids as the tokenizers have
    dim: int
    n_layers: int
    n_heads: int
    ffn: int  # the papers' "ffn" (4 * dim): the width before SwiGLU's 2/3
    ffn_multiple_of: int  # the expert width int(2/3 * ffn) is rounded up to this
    placement: Literal["swin", "pre"]
    norm_eps: float
    dropout: float  # after attention and FFN, in training
    attention: AttentionConfig
    experts: dict[str, int]
    width_share: dict[str, float]  # group -> share of the expert width, for groups that are narrower; 1 where not named
    untie: list[Literal["qkv", "out", "norms", "ffn"]]  # what each modality has of its own (mixture of transformers)
    towers: list[list[str]]  # modalities that share what is untied, e.g. [[text, image], [speech]]; those not named are alone
    depth: DepthConfig | None

    def tower_names(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """Of each modality, whose untied parts it uses: its own, or those of `text+image`, which the two share."""
        shared = {name: "+".join(tower) for tower in self.towers for name in tower}
        return tuple(shared.get(name, name) for name in modalities)

    def groups(self, modalities: Sequence[str]) -> dict[str, int]:
        """Experts of each group in the layers that have them; with `ffn` untied, `all` is a group for each tower."""
        groups = {name: count for name, count in self.experts.items() if name not in EXPERT_LAYERS}
        towers = self.tower_names(modalities)
        if "ffn" in self.untie and ALL in groups:
            groups = dict.fromkeys(towers, groups.pop(ALL)) | groups
        order = (*modalities, ALL, SHARED)
        return {name: groups[name] for name in sorted(groups, key=lambda name: order.index(name.split("+")[0]))}

    def has_experts(self, layer: int) -> bool:
        every, start = (self.experts.get(key, default) for key, default in EXPERT_LAYERS.items())
        return layer >= start and (layer - start) % every == 0

    def skips(self, layer: int) -> bool:
        """Whether the layer is one of a mixture of depths."""
        d = self.depth
        return d is not None and layer >= d.start and (layer - d.start) % d.every == 0


@dataclass(frozen=True)
class SourceConfig:
    """One source of documents; `reader` names an entry of the registry in momafuse.data.sources.

    What a reader has no use for (columns of plain text files) it passes over; docs/data.md says which reads what.
    """

    reader: str
    path: str | None = None
    weight: float = (
        1.0  # share of the budget of the modality that the source fills (data/lines.py), or of the text that is left
    )
    variants: int = 1  # versions of each training picture (flip, small shifts), or whatever has any; 1: as it is
    held_out: float = 0.02  # share of the documents (of a long text: of its characters) that are held out
    text: str | None = None  # column of texts; None: text
    caption: str | None = None  # column of a picture's text; None: text or caption
    image: str | None = None  # column of pictures, or of their file names; None: what the format calls them
    group: str | None = None  # column: rows of one value are held out together, or not at all
    least_side: int = 0  # pixels: documents with a picture whose shorter side is below it are left out
    most_aspect: float | None = None  # or with one that is more than so many times as long as wide
    least_text: int = 0  # or with less text than so many characters
    limit: int | None = None  # documents that are read at most; None: all
    options: dict[str, str | int | float | bool | list[str]] = field(
        default_factory=dict
    )  # of the reader `dataset`: datasets.load_dataset's

    @property
    def filters(self) -> dict[str, int | float]:
        """What leaves documents out, by name."""
        named = {"least_side": self.least_side, "most_aspect": self.most_aspect, "least_text": self.least_text}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True)
class StageConfig:
    """Other weights for the rest of a run (data/stages.py)."""

    from_: float  # share of the run's planned length: optim.schedule_steps, else trainer.max_steps, at its first start
    weights: dict[str, float]  # of the sources named, until a later stage names them again; 0 takes one out


@dataclass(frozen=True)
class DataConfig:
    name: str
    path: str | None  # the prepared corpus; None: corpora/NAME-HASH, prepared on first use
    sources: dict[str, SourceConfig]
    stages: list[StageConfig]
    sequence_length: int
    image_share: float | Literal["experts"]  # share of image tokens in every sequence; the same as share.image
    share: dict[str, float | Literal["experts"]]  # of any modality by name; text takes the rest
    window: int  # documents of one independent window of the pack plan
    max_rejects: float  # share of a source's documents that may be unusable
    duplicates: Literal["keep", "exact", "near"]  # near: also pictures that look alike

    def shares(self, modalities: Sequence[str]) -> dict[str, float | Literal["experts"]]:
        """Those asked for, by modality; `image_share` counts where `image` is one of them and `share.image` is not given."""
        first: dict[str, float | Literal["experts"]] = {"image": self.image_share} if "image" in modalities else {}
        return first | self.share

    def weights(self, stages: int = 0) -> dict[str, float]:
        """Of every source, when so many stages have begun."""
        weights = {name: source.weight for name, source in self.sources.items()}
        for stage in self.stages[:stages]:
            weights |= stage.weights
        return weights

    def held_out_weights(self) -> dict[str, float]:
        """Those of the start; of a source that comes in later, those that it comes in with."""
        found = self.weights()
        for stages in range(1, len(self.stages) + 1):
            found |= {name: weight for name, weight in self.weights(stages).items() if not found[name]}
        return found


def share_key(modality: str) -> str:
    """The key that errors name for the share of a modality."""
    return "data.image_share" if modality == "image" else f"data.share.{modality}"


@dataclass(frozen=True)
class ObjectiveConfig:
    weight: dict[str, float]  # per modality of the target
    z_loss: float
    answers_only: bool  # True: tokens that the corpus marks as given (a prompt, a question) are no targets


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate by step, and how gradients are clipped: what every stage has of `optim`."""

    lr: float
    lr_end: float
    warmup_steps: int
    schedule: Literal["linear", "cosine"]
    schedule_steps: int | None  # None: trainer.max_steps of the first start, kept in the checkpoint from then on
    grad_clip: float | None  # the norm of the gradient is at most this; None: as it is


@dataclass(frozen=True)
class OptimConfig(ScheduleConfig):
    train: list[str]  # shell patterns of the parameters that learn; the others are frozen
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


@dataclass(frozen=True)
class LoopConfig:
    """What the loop reads of `trainer`, whatever is trained; batches count sequences of tokens, or pictures."""

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]  # of the model; parameters, optimizer, routers and the loss stay fp32
    replicas: int  # of the sharded model: ranks / replicas hold one (HSDP); 1: sharded over all ranks
    reduce_dtype: Literal["fp32", "bf16"]  # of gradients between ranks
    timeout: float  # seconds that ranks wait for one another before the run ends with an error
    dry_step: bool  # a forward and backward before the first step: what does not fit or compile fails at once
    max_skipped: int  # updates in a row that may be skipped since loss or gradient are not finite; 0: stop at the first
    skip_spikes: float | None  # skip updates whose gradient norm is above this times the median of the last 100; None: never
    profile: str | None  # FIRST:LAST: steps of which a trace is written
    max_steps: int
    global_batch: int
    micro_batch: int  # the most that is taken at once (config/shares.py)
    eval_every: int  # steps; 0: only at the end
    log_every: int  # steps between console lines where the output is no terminal

    def profiled(self) -> tuple[int, int] | None:
        """First and last step of the trace. Raises ValueError for what is not FIRST:LAST."""
        if self.profile is None:
            return None
        first, last = map(int, self.profile.split(":"))
        if not 0 < first <= last:
            raise ValueError
        return first, last


@dataclass(frozen=True)
class TrainerConfig(LoopConfig):
    backend: Literal["auto", "reference", "bmm", "grouped_mm", "triton"]  # of the expert op
    activation_checkpointing: Literal["none", "selective", "full"]
    compile: bool | Literal["auto"]  # each block by torch.compile; auto: on a GPU, where each is one graph
    cuda_graphs: bool  # forward and backward of a micro-batch as one launch; on one GPU
    probe: int  # steps between rows with norms of activations, weights and updates by layer; 0: never
    max_tokens: int | None
    eval_sequences: int


@dataclass(frozen=True)
class CheckpointConfig:
    every: int  # steps; 0: only at the end
    keep_last: int  # complete checkpoints that stay
    keep_every: int | None  # steps; checkpoints at its multiples stay too; None: no others


@dataclass(frozen=True)
class UpcyclingConfig:
    """How the weights of `upcycle` become those of the model, where experts are copied."""

    optimizer: Literal["fresh", "tiled"]  # AdamW's moments: none, or by the rules of the weights
    weight_noise: float  # standard deviation of what is added to copies, as a share of the weight's own
    redraw: float  # share of each copy's hidden columns that is drawn anew
    capacity_steps: int  # steps in which the capacity factor falls from the experts of a group to router.capacity_factor


@dataclass(frozen=True)
class LoggerConfig:
    wandb: Literal["offline", "online", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]


@dataclass(frozen=True)
class RunnableConfig:
    """What the loop reads (training/loop.py), whatever is trained."""

    writes_run: ClassVar[bool] = True  # False in programs that only read: their jobs may share a run name

    run: RunConfig
    optim: ScheduleConfig
    trainer: LoopConfig
    checkpoint: CheckpointConfig
    logger: LoggerConfig
    resume: str  # auto | none | the path of a run or a checkpoint
    plugins: list[str]  # modules imported first: they may register sources

    @property
    def together(self) -> int:
        """Consecutive items that are in one micro-batch whatever its size."""
        return 1


@dataclass(frozen=True)
class Config(RunnableConfig):
    """Everything that `python -m momafuse.train` and `momafuse.prepare` read."""

    optim: OptimConfig
    trainer: TrainerConfig
    model: ModelConfig
    router: RouterConfig
    data: DataConfig
    tokenizer: dict[str, str]  # modality -> a shipped name or the path of its weights; text first, the order is that of ids
    objective: ObjectiveConfig
    upcycle: str | None  # the path of a run or a checkpoint that the run's weights are made from
    upcycling: UpcyclingConfig
    model_from: str | None  # with router.auxiliary: the run (or checkpoint) whose model they learn from

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names in the order of their numbers: text first, the others as the tokenizers are named."""
        return TEXT, *(name for name in self.tokenizer if name != TEXT)

    @property
    def routed(self) -> dict[str, int]:
        """The groups of several experts, between which a router chooses -> their experts."""
        groups = self.model.groups(self.modalities)
        return {name: count for name, count in groups.items() if count > 1 and name != SHARED}

    @property
    def needs_auxiliary(self) -> bool:
        """Whether choosing causally takes auxiliary routers."""
        return self.model.depth is not None or bool(self.routed and self.router.needs_auxiliary)

    @property
    def together(self) -> int:
        """A pool, where something chooses among its rows."""
        depth = self.model.depth
        return self.router.pool if self.routed or (depth is not None and not depth.per_modality) else 1

    @property
    def noisy(self) -> bool:
        """Whether routers see noise in training."""
        return self.upcycle is not None if self.router.noise == "auto" else self.router.noise
