"""Mixed precision on one device: parameters and optimizer in fp32, products in bf16, routers in fp32.

Every weight of the model follows the dtype of the rows, so it is enough to cast the rows where they begin: at the embedding's
output. Gradients arrive in fp32, and recomputing a block casts its weights again. Routers compute in fp32 by themselves
(routing/routers.py), because a choice between experts by rounded logits would tie; so does the loss.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.models.transformer import Transformer


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """`auto` is the GPU where there is one. Raises UserError if CUDA is asked for and missing."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda: torch finds no CUDA device; use trainer=cpu or install a CUDA build of torch")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def resolve_precision(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """`auto` is bf16 on a GPU and on a CPU with bf16 products in hardware; elsewhere bf16 is emulated and slow."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def apply_precision(model: Transformer, dtype: torch.dtype) -> None:
    """From now on the model's rows, and with them its products, are in `dtype`."""

    def cast(module: torch.nn.Module, args: object, rows: Tensor) -> Tensor:
        return rows.to(dtype)

    if dtype != torch.float32:
        model.embedding.register_forward_hook(cast)
