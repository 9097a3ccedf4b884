"""The weights of one group of experts, as the op takes them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class GroupWeights(NamedTuple):
    """SwiGLU stacks: gate and up (E_g, D, F), down (E_g, F, D), one dtype."""

    gate: Tensor
    up: Tensor
    down: Tensor
