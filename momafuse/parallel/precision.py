"""Mixed precision on one device: parameters and optimizer in fp32, products in bf16, routers in fp32.

Each forward sees bf16 copies of the fp32 parameters, and gradients arrive in fp32: what a sharded mixed-precision policy
does when it gathers a block, without sharding. Router weights stay fp32, because a choice between experts by rounded logits
would tie. The loss is fp32 by itself (objectives/next_token.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call

from momafuse.errors import UserError


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


def in_precision(model: nn.Module, dtype: torch.dtype) -> Callable[..., Any]:
    """The model's forward with its parameters cast to `dtype`, but for the routers'."""
    if dtype == torch.float32:
        return model

    def forward(*args: Any, **kwargs: Any) -> Any:
        cast = {name: p if ".router." in name else p.to(dtype) for name, p in model.named_parameters()}
        return functional_call(model, cast, args, kwargs)

    return forward
