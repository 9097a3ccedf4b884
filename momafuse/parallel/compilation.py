"""torch.compile of every block, each one graph without breaks: the rest of a step is a loop and two products.

Shapes are constants (a modality budget for every sequence), so nothing is compiled for dynamic sizes. Where only the device
knows sizes (`model.depth.per_modality=false` with several groups) the triton backend leaves them there; the reference reads
them on the host, which breaks a graph: such a model is refused. Applied after activation checkpointing, in place; parameter
paths stay.
"""

from __future__ import annotations

from momafuse.errors import UserError
from momafuse.models.transformer import Transformer


def apply_compile(model: Transformer, backend: str = "inductor", *, ragged: bool = False) -> None:
    """`ragged`: the products may leave sizes on the device. Raises UserError where a block would not be one graph."""
    depth = model.config.depth
    several = len(model.groups) > 1 or model.n_experts > 1 or model.config.untie
    if depth is not None and not depth.per_modality and several and not ragged:
        raise UserError(
            "trainer.compile=true: with model.depth.per_modality=false only the device knows how many rows an expert takes; "
            "write trainer.compile=false or model.depth.per_modality=true, or use a GPU that trainer.backend=triton serves"
        )
    for block in model.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=backend)
