"""Gumbel-sigmoid noise as an input: drawn once a step for all layers, from a counter instead of a generator's state.

    sigmoid(z + G' - G''),  G' - G'' = log u - log(1 - u)          (MoMa, arXiv 2407.21770, on upcycling; temperature 1)

u comes from a hash of (seed, step, layer, sequence, position, expert), so the same row sees the same noise at any
micro-batch, rank or recompute, and a resumed run has nothing to restore. Does not decide when noise is on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from momafuse.routing.rows import NoiseKeys

_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of the splitmix64 finaliser
_INCREMENT = 0x9E3779B97F4A7C15


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's >> keeps the sign of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mixed(x: Tensor) -> Tensor:
    """Any int64 -> int64 that look random: the splitmix64 finaliser on int64, whose products wrap."""
    x = x + _signed(_INCREMENT)
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ _shift(x, shift)) * _signed(multiplier)
    return x ^ _shift(x, 31)


def logistic_noise(batch: NoiseKeys, *, seed: int, step: int | Tensor, layers: int, experts: int) -> Tensor:
    """(layers, T, experts) fp32 on the batch's device: independent standard logistic variables. `step` may be on the device."""
    device = batch.sequence.device
    key = mixed(torch.full((), _signed(seed), device=device))  # filled there: a copy would wait for the device
    key = mixed(key ^ step)
    layer = mixed(key ^ torch.arange(layers, device=device))
    row = mixed(layer[:, None] ^ batch.sequence[None, :])
    row = mixed(row[:, :, None] ^ batch.position[None, :, :].long()).flatten(1)
    bits = mixed(row[:, :, None] ^ torch.arange(experts, device=device))
    u = (_shift(bits, 12).double() + 0.5) * 2.0**-52  # 52 bits and a half: exact, never 0 or 1
    return (torch.log(u) - torch.log1p(-u)).float()
