"""Activation checkpointing of every block: its backward computes again what its forward did not keep.

    full        a block keeps its input, and what its routers chose
    selective   also the results of the attention and its projections: the experts, whose hidden rows are the widest, and
                everything cheap are computed again

The routing decision is always kept (`momafuse::top_rows`): computed again from rounded scores it could be another one, and
gradients would belong to another function than the loss. Applied to a finished model from outside; parameter paths stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from momafuse.models.transformer import Transformer

Mode = Literal["none", "selective", "full"]

_ATEN, _OURS = torch.ops.aten, torch.ops.momafuse
DECISIONS = (_OURS.top_rows.default, _OURS.above.default, _OURS.choose_rows.default)
ATTENTION = (
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _OURS.grouped_linear.default,
    _OURS.grouped_linear_triton.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _OURS.attention_varlen.default,
    torch.ops.higher_order.flex_attention,
)
KEPT = {"full": DECISIONS, "selective": DECISIONS + ATTENTION}


def apply_activation_checkpointing(model: Transformer, mode: Mode) -> None:
    """Replaces the forward of every block."""
    if mode == "none":
        return
    contexts = partial(create_selective_checkpoint_contexts, partial(_policy, KEPT[mode]))
    for block in model.blocks:
        block.forward = _checkpointed(block.forward, contexts, preserve_rng_state=model.config.dropout > 0)


def _checkpointed(forward: Callable[..., Any], contexts: Callable[[], Any], *, preserve_rng_state: bool) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, preserve_rng_state=preserve_rng_state)

    return run


def _policy(kept: tuple[Any, ...], context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE
