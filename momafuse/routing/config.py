"""What routers are configured by. Apart from the routers, so that configs are checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from momafuse.routing.kinds import KINDS, TOKEN_CHOICE


@dataclass(frozen=True)
class RouterLossConfig:
    """Weights of the losses that routers have of their own (objectives/routing.py); 0: not computed."""

    balance: float  # Switch, GShard
    importance: float  # V-MoE
    load: float  # V-MoE; needs noise
    z: float  # ST-MoE
    local_entropy: dict[str, float]  # LIMoE, by modality: each token should be sure
    global_entropy: dict[str, float]  # LIMoE, by modality: its tokens together should use many experts
    least_experts: dict[str, float]  # of the global entropy: below so many experts, softly, it begins; 1 where not named
    by_modality: bool  # balance, importance and load within each modality, not over all rows together

    @property
    def any(self) -> bool:
        entropies = (*self.local_entropy.values(), *self.global_entropy.values())
        return any((self.balance, self.importance, self.load, self.z, *entropies))


@dataclass(frozen=True)
class RouterConfig:
    kind: str  # a name of routing/kinds.py
    pool: int  # consecutive global sequences that experts choose from together
    capacity_factor: float
    noise: bool | Literal["auto"]  # in training, never in evaluation; auto: in upcycled runs
    auxiliary: bool  # routers that choose causally; they learn after the model, by +experiment=aux_routers model_from=RUN
    top_k: int  # token choice: experts of a row
    score: Literal["softmax", "sigmoid"]  # token choice: what gates are
    normalise: bool  # token choice: the gates of a row add up to 1
    dropless: bool  # token choice, False: an expert takes at most its capacity of a pool, the rest is dropped
    priority: bool  # with a capacity, rows that are surest go first (LIMoE, V-MoE); else those that stand first
    bias_rate: float  # token choice: loss-free balance, what a bias changes by in a step; 0: no bias
    decay: float  # threshold: of the moving average
    loss: RouterLossConfig
    options: dict[str, str | int | float | bool]  # of a kind of another package

    @property
    def needs_auxiliary(self) -> bool:
        """Whether choosing causally takes auxiliary routers."""
        return KINDS[self.kind].needs_auxiliary

    @property
    def looks_ahead(self) -> bool:
        """Whether what a row meets in training hangs on later rows, or on other sequences."""
        return self.needs_auxiliary or (self.kind == TOKEN_CHOICE and not self.dropless)
