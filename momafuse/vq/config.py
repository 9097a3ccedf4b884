"""How a VQ tokenizer is trained, whatever it encodes. Values live in `configs/tokenizer/*.yaml`, not here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VQTraining:
    """One training run. Steps are optimizer steps; learning rates are per step."""

    name: str  # of the weights file
    seed: int
    steps: int
    plain_steps: int  # of `steps`, the first without quantisation: a plain autoencoder
    batch: int  # items
    lr: float  # of Adam (biases, narrow kernels)
    muon_lr: float  # of Muon (all other kernels); both follow one schedule
    warmup_steps: int
    weight_decay: float  # of Muon's kernels, times muon_lr
    commitment_weight: float  # beside the loss of reconstruction, whose weight is 1
    code_decay: float  # of the EMA that moves the codes
    restart_below: float  # a code whose EMA count of uses falls below this share of the mean is restarted
    restart_until: float  # share of `steps` after which no code is restarted any more
    weight_ema: float  # decay of the averaged weights that are stored
