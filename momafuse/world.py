"""The processes of one run: who this one is, and how they talk.

One process alone is a world of size 1 without communication. Under torchrun (RANK, WORLD_SIZE, LOCAL_RANK in the
environment) every process joins a group: NCCL for tensors on GPUs, gloo for those on the CPU. Sharding is over the mesh
(parallel/sharding.py).

What only the main process may do (folders, the corpus, reports) goes through `on_main`: the others wait for its result, and
its error becomes that of all. Ranks share one file system. What a rank says when it fails: ending.py.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from momafuse.ending import ending
from momafuse.errors import UserError
from momafuse.preemption import Preempted, asked, leave_if

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # preparing a corpus takes as long as it takes
JOINED = itertools.count()  # a process may join again (several jobs of one command); the keys of the store must differ


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None  # None: one process without sharding
    waiting: dist.ProcessGroup | None  # gloo, with patience: the main process works while the others wait
    shared: list[BaseException] = field(default_factory=list)  # errors of the main process that all ranks raise

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks, on the device of `x`, which stays as it is; every rank must call it."""
        if self.mesh is None:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, *numbers: float) -> list[list[float]]:
        """Host numbers of every rank, a list a rank; no device waits. Every rank must call it."""
        mine = torch.tensor(numbers, dtype=torch.float64)
        if self.mesh is None:
            return [mine.tolist()]
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return [numbers.tolist() for numbers in found]

    def leave_if_warned(self) -> None:
        """Raises Preempted on all ranks if one of them was asked to leave. Every rank must call it."""
        leave_if(max(number for (number,) in self.gather(asked())))

    def on_main(self, action: Callable[[], T]) -> T:
        """What the main process's `action` returns (it is pickled), or the error that it raises, on every rank."""
        if self.mesh is None:
            return action()
        box: list[T | Exception | None] = [None]
        if self.main:
            try:
                box = [action()]
            except Exception as error:  # whatever it is: the others must not wait for ever
                box = [error]
        dist.broadcast_object_list(box, src=0, group=self.waiting)
        if isinstance(box[0], Exception):
            self.shared.append(box[0])
            raise box[0]
        return box[0]  # type: ignore[return-value]

    def on_all(self, action: Callable[[], T]) -> list[T]:
        """What `action` returns on each rank, in their order (it is pickled), or the first error raised, on every rank."""
        if self.mesh is None:
            return [action()]
        mine: T | Exception
        try:
            mine = action()
        except Exception as error:
            mine = error
        box: list[T | Exception] = [mine] * self.size
        dist.all_gather_object(box, mine, group=self.waiting)
        for found in box:
            if isinstance(found, Exception):
                raise found
        return box  # type: ignore[return-value]

    def aside(self) -> World:
        """The same world with a group of its own for what it says on the host, for a thread beside the steps. Every rank must
        call it. The thread must leave `sum` alone, which goes over the group of the steps."""
        return self if self.mesh is None else replace(self, waiting=dist.new_group(backend="gloo", timeout=PATIENCE))

    def main_first(self, action: Callable[[], T]) -> T:
        """`action` on every rank, the main process before the others: for what is made once and then read."""
        made: list[T] = []
        self.on_main(lambda: made.append(action()))
        return made[0] if made else action()


@contextmanager
def join(device: torch.device, *, timeout: float, replicas: int = 1) -> Iterator[World]:
    """The world that this process belongs to, by the environment; left again at the end.

    `timeout` in seconds: a collective that does not come about within it ends the process with an error. With `replicas`
    the model is sharded over size / replicas ranks and replicated (HSDP), if that is a whole number. What goes wrong in one
    of many processes is raised as RankError, and the groups stay as they are, since the process has to end.
    """
    if "RANK" not in os.environ:
        yield World(0, 1, device, None, None)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    rank, size, store, shared = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), None, []
    try:
        if size % replicas:
            raise UserError(f"trainer.replicas={replicas}: must divide the {size} ranks of this run")
        patience = timedelta(seconds=timeout)
        store = PrefixStore(f"momafuse/{next(JOINED)}", next(iter(rendezvous("env://", timeout=patience)))[0])
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
        waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
        shape, names = ((size,), ("shard",)) if replicas == 1 else ((replicas, size // replicas), ("replicate", "shard"))
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        world = World(rank, size, device, mesh, waiting)
        shared = world.shared
        yield world
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, Preempted):  # on all ranks: who leaves first would take connections away from the others
            with suppress(RuntimeError):  # but one may have left by Ctrl-C, while it waited for the main process
                dist.barrier(waiting)
        raise ending(error, store, rank, size, shared=any(error is s for s in shared)) from error
    dist.barrier(waiting)  # who leaves first would take connections away from the others
    dist.destroy_process_group()
