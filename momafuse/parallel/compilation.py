"""torch.compile of every block, each one graph without breaks: the rest of a step is a loop and two products.

Shapes are constants (a modality budget for every sequence), so nothing is compiled for dynamic sizes. Where only the device
knows sizes (kinds of routers other than expert choice; `model.depth.per_modality=false` with several groups) the triton backend
leaves them there; on a CPU the host reads them, which breaks a graph: such a model is refused. Applied after activation
checkpointing, in place; parameter paths stay.
"""

from __future__ import annotations

import torch

from momafuse.config.schema import Config
from momafuse.errors import UserError
from momafuse.models.transformer import Transformer


def compiles(config: Config, model: Transformer, device: torch.device, *, ragged: bool) -> bool:
    """What `trainer.compile` asks for. `auto` compiles on a GPU, where every block is one graph from the first step to the
    last: not while capacities change from step to step, nor for auxiliary routers, whose stage is short."""
    if config.trainer.compile != "auto":
        return config.trainer.compile
    steady = not config.router.auxiliary and not (config.upcycle is not None and config.upcycling.capacity_steps)
    return device.type == "cuda" and steady and _one_graph(model, ragged)


def is_compiled(model: Transformer) -> bool:
    """Whether `apply_compile` was applied."""
    return all(block._compiled_call_impl is not None for block in model.blocks)  # where Module.compile leaves its mark


def _one_graph(model: Transformer, ragged: bool) -> bool:
    depth = model.config.depth
    several = len(model.groups) > 1 or model.n_experts > 1 or model.config.untie
    if model.leaves_sizes and not ragged:
        return False
    return depth is None or depth.per_modality or not several or ragged


def apply_compile(model: Transformer, backend: str = "inductor", *, ragged: bool = False) -> None:
    """`ragged`: the products may leave sizes on the device. Raises UserError where a block would not be one graph."""
    if not _one_graph(model, ragged):
        why = f"router.kind={model.router.kind}" if model.leaves_sizes else "model.depth.per_modality=false"
        raise UserError(
            f"trainer.compile=true: with {why} only the device knows how many rows an expert takes; write "
            "trainer.compile=false, or use a GPU that trainer.backend=triton serves"
        )
    for block in model.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=backend)
