"""Settings of quantizers for tests."""

from __future__ import annotations

from typing import Any

from momafuse.vq.config import QuantizerConfig

EMA: dict[str, Any] = {
    "kind": "ema", "space": "sphere", "estimator": "straight_through", "first": "kmeans", "levels": (),
    "commitment_weight": 0.2, "code_decay": 0.9, "restart_below": 0.1, "restart_until": 0.9,
}  # fmt: skip
PLAIN = EMA | {"kind": "learned", "space": "plane", "first": "random", "restart_below": 0.0}
SIM = EMA | {"kind": "sim", "space": "plane", "first": "random"}
FSQ = EMA | {"kind": "fsq", "space": "cube", "levels": (4, 8)}


def config(base: dict[str, Any], **changed: Any) -> QuantizerConfig:
    return QuantizerConfig(**base | changed)
