"""FSDP2: every block, router, embedding and head is gathered where it is used and sharded again.

    block    its parameters in the precision of the run, gathered for its forward and again for its backward
    router   main or auxiliary, in fp32 in a group of its own: its logits must not be rounded
    root     embedding, last norm and head

Gradients are summed over ranks, not averaged: the loss is normalised by the valid targets of all ranks (training/losses.py).
Inputs are not cast, so that noise stays fp32. Stacks of experts are sharded by expert where there are at least as many as
ranks, else along the first dimension that divides; where none does, dim 0 is padded, and `shard` says so.
With a mesh of two dimensions the shards are replicated over the first (HSDP).
Applied after activation checkpointing and compile; parameter paths stay.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._pytree import register_dataclass

from momafuse.models.initialise import Held, whole
from momafuse.models.transformer import Transformer
from momafuse.routing.auxiliary import Auxiliary, Lesson
from momafuse.routing.depth import DepthRouter, Kept
from momafuse.routing.plan import Plan, Scores
from momafuse.routing.routers import Router

# Blocks return views, which is safe as long as nobody writes into them in place; nothing in models/ does.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

for data in (Plan, Scores, Kept, Lesson):  # FSDP looks for tensors with gradients in what a module returns
    register_dataclass(data)


def shard(model: Transformer, mesh: DeviceMesh, dtype: torch.dtype, reduce_dtype: torch.dtype) -> list[str]:
    """Shards in place, on any device, meta too. Returns the paths of parameters whose shards are padded."""
    size = mesh["shard"].size()

    def place(p: nn.Parameter) -> Shard | None:
        return Shard(shard_dim(p, size))

    products = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=reduce_dtype, cast_forward_inputs=False
    )
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    padded = [path for path, p in model.named_parameters() if p.shape[shard_dim(p, size)] % size]
    for block in model.blocks:
        routers = (m for m in block.modules() if isinstance(m, Router | DepthRouter | Auxiliary))
        for router in (r for r in routers if any(True for _ in r.parameters())):
            fully_shard(router, mesh=mesh, mp_policy=exact, shard_placement_fn=place, reshard_after_forward=size > 1)
        fully_shard(block, mesh=mesh, mp_policy=products, shard_placement_fn=place, reshard_after_forward=size > 1)
    fully_shard(model, mesh=mesh, mp_policy=products, shard_placement_fn=place)
    _sum_gradients(model, mesh)
    return padded


def shard_parts(model: nn.Module, mesh: DeviceMesh, reduce_dtype: torch.dtype) -> None:
    """Shards each child of a model, which is gathered whole where it is called: for what has no blocks to speak of. Parameters
    keep their precision. A child without parameters is left as it is."""
    size = mesh["shard"].size()
    policy = MixedPrecisionPolicy(reduce_dtype=reduce_dtype, cast_forward_inputs=False)
    for p in model.parameters():
        p.data = p.data.contiguous()  # FSDP takes no other order of dimensions
    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh, mp_policy=policy, shard_placement_fn=lambda p: Shard(shard_dim(p, size)))
    _sum_gradients(model, mesh)


def _sum_gradients(model: nn.Module, mesh: DeviceMesh) -> None:
    for module in model.modules():
        if isinstance(module, FSDPModule) and mesh.size() > 1:  # alone there is nothing to sum, and FSDP would divide by 1
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other, and sums are what is wanted


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """The whole of a model's state on the host, sharded or not. Every rank must call it."""
    whole = {path: x.full_tensor() if isinstance(x, DTensor) else x for path, x in model.state_dict().items()}
    return {path: x.detach().cpu().clone() for path, x in whole.items()}


def shard_dim(p: Tensor, size: int) -> int:
    """The dimension along which a parameter is cut for `size` ranks."""
    if p.dim() < 2 or p.shape[0] % size == 0:
        return 0
    return next((d for d in range(1, p.dim()) if p.shape[d] % size == 0), 0)


def holds(p: Tensor) -> Held:
    """What this rank holds of a parameter, sharded or not; padding is not part of it."""
    if not isinstance(p, DTensor):
        return whole(p)
    ((number, dim),) = ((n, s.dim) for n, s in enumerate(p.placements) if isinstance(s, Shard))  # others are replicas
    each = -(-p.shape[dim] // p.device_mesh.size(number))
    return Held(p.to_local().detach(), dim, min(p.shape[dim], each * p.device_mesh.get_local_rank(number)))


def fill(p: Tensor, full: Tensor) -> None:
    """Write the whole tensor `full`, which every rank has, into a parameter, sharded or not."""
    if isinstance(p, DTensor):
        full = full.to(p.device_mesh.device_type)
        p.copy_(distribute_tensor(full, p.device_mesh, p.placements, src_data_rank=None))
    else:
        p.copy_(full)
