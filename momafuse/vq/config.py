"""How a VQ tokenizer is trained, whatever it encodes. Values live in `configs/tokenizer/*.yaml`, not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GROUPS = 8  # of the discriminator's norms
Space = Literal["sphere", "plane", "cube"]  # where codes live (codes.py)


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """`fsq` has a fixed grid of codes and reads `levels` alone; `levels` is empty for the others."""

    kind: Literal["ema", "learned", "sim", "fsq"]  # how codes move: codebooks.py; finite scalar quantization: quantizer.py
    space: Space  # of the codes: sphere or plane, of fsq cube
    estimator: Literal["straight_through", "rotation"]  # how gradients pass the choice (estimators.py)
    first: Literal["kmeans", "random"]  # the first codes: centres of the encoder's outputs, or drawn
    levels: tuple[int, ...]  # of each number of a code of fsq
    commitment_weight: float  # of the vectors' distance from their codes, beside the loss of reconstruction, whose weight is 1
    code_decay: float  # of the EMA of uses, and of `ema`'s codes
    restart_below: float  # a code whose EMA of uses falls below this share of the mean is restarted; 0: never
    restart_until: float  # share of the steps after which no code is restarted any more


@dataclass(frozen=True, kw_only=True)
class VQTraining:
    """How weights are made, beside steps and batches (`trainer`), rates (`optim`) and data."""

    name: str  # of the weights file
    plain_steps: int  # of trainer.max_steps, the first without quantisation: a plain autoencoder
    weight_ema: float  # decay of the averaged weights that are stored
    quantizer: QuantizerConfig


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """A network that is to tell items from what is left of them, and pulls the decoder (vision/discriminator.py)."""

    start: int  # the step that it begins with
    weight: float  # of its pull, as a share of that of the reconstruction
    lr: float  # of Adam
    channels: int  # of its first layer; each of the others has twice as many, up to eight times
    layers: int  # that halve the picture: how much of it a judgement sees
