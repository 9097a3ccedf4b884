"""`trainer.probe=N`: on every N-th step the sizes of activations, weights and updates, layer by layer.

    probe/activations/L   root mean square of the entries that layer L puts out, over all rows of the step; an output that
                          grows without bound in the last layer is Chameleon's early warning (arXiv 2405.09818, section 2.2:
                          it goes before a divergence of the loss by many steps)
    probe/weights/PART    norm of the parameters of a part: a layer's number, `embedding`, `norm`, `head`
    probe/updates/PART    norm of what the optimizer's step changed in them; 0 where the guard skipped it
    probe/router_gradients/L    norm of the gradients of layer L's routers, before clipping: one that is 0 learns nothing

Outputs are looked at between blocks, outside of what is compiled, recomputed or sharded; norms are those of all ranks. On other
steps nothing is done. A probed step needs room for a copy of a rank's parameters, and waits for the device once more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from momafuse.models.transformer import Observe
from momafuse.training.guard import local
from momafuse.training.setup import Setup


class Probe:
    def __init__(self, every: int, setup: Setup, replicas: int) -> None:
        """`every`: steps, 0 for never; `replicas` of the sharded model."""
        self._every, self._setup, self._replicas, self._on = every, setup, replicas, False
        self._squares = torch.zeros(0)
        self._entries = 0
        self._before: list[Tensor] = []
        self._gradients = torch.zeros(0)
        paths = [path for path, _ in setup.model.named_parameters()]
        self._routed = list(dict.fromkeys(int(path.split(".")[1]) for path in paths if "router" in path))
        self._part_of = [path.split(".")[1] if path.startswith("blocks.") else path.split(".")[0] for path in paths]
        self._parts = list(dict.fromkeys(self._part_of))

    def begin(self, step: int) -> Observe | None:
        """What the forwards of `step` call for every layer; None where it is not probed."""
        self._on = self._every > 0 and step % self._every == 0
        if not self._on:
            return None
        layers = len(self._setup.model.blocks)
        self._squares, self._entries = torch.zeros(layers, dtype=torch.float64, device=self._setup.world.device), 0
        return self._observe

    @torch.no_grad()
    def before_update(self) -> None:
        if self._on:
            self._before = [local(p.detach()).clone() for p in self._setup.model.parameters()]
            self._gradients = torch.zeros_like(self._squares)
            for path, p in self._setup.model.named_parameters():
                if "router" in path and p.grad is not None:
                    self._gradients[int(path.split(".")[1])] += local(p.grad).double().square().sum()

    @torch.no_grad()
    def row(self) -> dict[str, float]:
        """The values of the step, empty where it is not probed. Every rank must call it."""
        if not self._on:
            return {}
        weights, updates = (torch.zeros(len(self._parts), dtype=torch.float64, device=self._squares.device) for _ in range(2))
        now = [local(p.detach()) for p in self._setup.model.parameters()]
        for part, p, before in zip(self._part_of, now, self._before, strict=True):
            weights[self._parts.index(part)] += p.double().square().sum()
            updates[self._parts.index(part)] += (p.double() - before.double()).square().sum()
        self._before = []
        entries = self._squares.new_tensor([self._entries])
        found = self._setup.world.sum(torch.cat([self._squares, weights, updates, self._gradients, entries])).tolist()
        layers, parts = len(self._squares), len(self._parts)
        row = {f"probe/activations/{i}": math.sqrt(x * layers / found[-1]) for i, x in enumerate(found[:layers])}
        for name, start in (("weights", layers), ("updates", layers + parts)):
            values = zip(self._parts, found[start : start + parts], strict=True)
            row |= {f"probe/{name}/{part}": math.sqrt(x / self._replicas) for part, x in values}
        for layer in self._routed:
            square = found[layers + 2 * parts + layer]
            row[f"probe/router_gradients/{layer}"] = math.sqrt(square / self._replicas)
        return row

    @torch.no_grad()
    def _observe(self, layer: int, x: Tensor) -> None:
        self._squares[layer] += x.detach().double().square().sum()
        self._entries += x.numel()
