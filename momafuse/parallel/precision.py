"""Mixed precision on one device: parameters and optimizer in fp32, products in bf16, routers in fp32.

Every weight of the model follows the dtype of the rows, so it is enough to cast the rows where they begin: at the embedding's
output. Routers compute in fp32 by themselves (routing/routers.py), because a choice between experts by rounded logits would
tie; so does the loss.

The weights of products are rounded once a step, not once a micro-batch, evaluation batch and recomputation: for the
micro-batches of a step modules hold working copies of them in bf16 (`WorkingCopies`), whose gradients are added to those of
the fp32 masters as soon as they are made: 10 bytes a parameter and micro-batch (read 2, read and write 4), not 18. Results are
equal to the last digit to those without copies (compiled by inductor, which may fuse a cast with what is around it, but for
rounding). They take 2 bytes a parameter for the whole run, no more than those that autograd would keep for the backward without
activation checkpointing. FSDP2 has its own (sharding.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from momafuse.errors import UserError
from momafuse.models.experts import ExpertGroup
from momafuse.models.linear import Linear, UntiedLinear
from momafuse.models.transformer import Head, Transformer

PRODUCTS = (Linear, UntiedLinear, ExpertGroup, Head)  # modules whose weights follow the rows; norms are small and cast theirs
Working = Callable[[], AbstractContextManager[None]]  # around what computes with the model


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


def working(model: Transformer, dtype: torch.dtype) -> Working:
    """What a model that is not sharded computes under; make it once a run, when the model lies on its device."""
    return nullcontext if dtype == torch.float32 else WorkingCopies(model, dtype)


def round_products(model: Transformer, dtype: torch.dtype) -> None:
    """For a model that only computes: weights of products are in `dtype` for good, rounded once; routers stay as they are."""
    for product in model.modules():
        if isinstance(product, PRODUCTS):
            for p in product.parameters():
                p.data = p.data.to(dtype)


class WorkingCopies:
    """`with copies():` modules of products hold the copies, made anew from what their parameters are then; afterwards they hold
    their parameters again, with the gradients of all backwards within.

    The copies are the same tensors for the whole run, so that nothing is compiled again. Those of frozen parameters are made
    the first time only.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        owners = [m for product in model.modules() if isinstance(product, PRODUCTS) for m in product.modules()]
        self._places = [(owner._parameters, name) for owner in owners for name in owner._parameters]
        self._masters = [_parameter(place) for place in self._places]
        self._copies = [nn.Parameter(torch.empty_like(p, dtype=dtype), p.requires_grad) for p in self._masters]
        self._due = list(range(len(self._places)))
        for master, copy in zip(self._masters, self._copies, strict=True):
            if copy.requires_grad:
                copy.register_post_accumulate_grad_hook(partial(_hand_over, master))  # type: ignore[no-untyped-call]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with torch.no_grad():
            if self._due:
                torch._foreach_copy_([self._copies[i] for i in self._due], [self._masters[i] for i in self._due])
        self._due = [i for i in self._due if self._masters[i].requires_grad]
        self._hold(self._copies)
        try:
            yield
        finally:
            self._hold(self._masters)

    def _hold(self, parameters: list[nn.Parameter]) -> None:
        for (held, name), p in zip(self._places, parameters, strict=True):
            held[name] = p


def _parameter(place: tuple[dict[str, nn.Parameter | None], str]) -> nn.Parameter:
    held, name = place
    p = held[name]
    assert p is not None
    return p


def _hand_over(master: nn.Parameter, copy: Tensor) -> None:
    grad, copy.grad = copy.grad, None
    assert grad is not None
    if master.grad is None:
        master.grad = grad.to(master.dtype)
    else:
        master.grad.add_(grad)
