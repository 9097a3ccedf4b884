"""How a VQ tokenizer is trained, whatever it encodes. Values live in `configs/tokenizer/*.yaml`, not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """One training run. Steps are optimizer steps; learning rates are per step."""

    name: str  # of the weights file
    seed: int
    steps: int
    plain_steps: int  # of `steps`, the first without quantisation: a plain autoencoder
    batch: int  # items
    lr: float  # of Adam (biases, narrow kernels, codes)
    muon_lr: float  # of Muon (all other kernels); both follow one schedule
    warmup_steps: int
    weight_decay: float  # of Muon's kernels, times muon_lr
    weight_ema: float  # decay of the averaged weights that are stored
    quantizer: QuantizerConfig
