"""The stage that trains a VQ tokenizer: a plain autoencoder first, then codes, then all of it together.

The first `tokenizer.plain_steps` train encoder and decoder without codes; then the quantizer (vq/quantizer.py) begins, with
k-means on the encoder's outputs where it asks for them; from step `discriminator.start` on, where there is one, a
discriminator (adversary.py) learns and pulls. What is judged and stored is the moving average of the weights. What a step
draws follows from (seed, step), what an item is from (seed, number): a run goes on exactly on a CPU, and is the same but for
rounding at any number of ranks.

The weights as they stand lie in the run folder, NAME.safetensors; at the end they are copied to OUT. State beside the loop's:
items seen; FLOPs are not counted (`describe` has them). What an item is: task.py.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from momafuse.config.compose import Job
from momafuse.config.shares import largest
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.data.loader import ahead
from momafuse.files import write_aside
from momafuse.parallel.precision import resolve_precision
from momafuse.parallel.sharding import gathered, shard_parts
from momafuse.reports.logger import Logger
from momafuse.reports.plots import plot_series
from momafuse.reports.tokenizer import describe_tokenizer
from momafuse.tokenizers.adversary import Adversary
from momafuse.tokenizers.codes import Codes
from momafuse.tokenizers.task import Task
from momafuse.training.folder import run_path
from momafuse.training.optimizer import set_learning_rate
from momafuse.training.schedule import more, rate_of
from momafuse.training.seed import Seed
from momafuse.training.stage import Stage
from momafuse.vq.optimizer import Muon, adam, split_parameters
from momafuse.vq.quantizer import build_quantizer
from momafuse.vq.step import autocast, passed
from momafuse.world import World

Figures = dict[str, float]


class TokenizerStage(Stage[Tensor, Figures]):
    unit: ClassVar[str] = "items"
    item: ClassVar[str] = "item"
    counted: ClassVar[tuple[str, ...]] = ("items",)

    config: TokenizerTraining

    def __init__(self, config: TokenizerTraining, task: Task[Any], world: World) -> None:
        t, how = config.trainer, task.config
        self.config, self.task, self.world, self.working = config, task, world, nullcontext
        self.name, self.reads, self.data = how.name, task.reads, task.data
        self.dtype = resolve_precision(t.precision, world.device)
        torch.manual_seed(config.run.seed)
        self._net = task.model().to(world.device)
        self._average = copy.deepcopy(self._net).requires_grad_(False)
        self._codes = Codes(build_quantizer(task.architecture, how.quantizer).to(world.device), config.run.seed, world)
        parts = {"model": self._net, "quantizer": self._codes.quantizer, "average": self._average}
        made, self._adversary = task.discriminator(), None
        if made is not None:
            parts["discriminator"] = made[0].to(world.device)
            self._adversary = Adversary(*made)
        if world.mesh is not None:
            for name in parts.keys() - {"quantizer"}:
                shard_parts(parts[name], world.mesh, torch.bfloat16 if t.reduce_dtype == "bf16" else torch.float32)
        self.model = nn.ModuleDict(parts)
        self.optimizers = self._optimizers()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        o = self.config.optim
        kernels, rest = split_parameters(self._net)
        codes = list(self._codes.quantizer.parameters())  # in a group of their own, since they are never sharded
        found: list[torch.optim.Optimizer] = [
            adam([rest, codes], o.lr, (0.9, 0.98)),
            *([Muon(kernels, o.muon_lr, o.weight_decay, self.dtype)] if kernels else []),
        ]
        if self._adversary is not None:
            found.append(adam([self._adversary.parameters()], self._adversary.config.lr, (0.5, 0.9)))
        self._peaks = [float(optimizer.defaults["lr"]) for optimizer in found]
        return found

    # -- before the first step

    def first_state(self, seed: Seed | None) -> dict[str, Any]:
        return {"items": 0}

    def introduction(self, state: Mapping[str, Any]) -> list[str]:
        return [self.task.summary]

    def size(self) -> int:
        return sum(p.numel() for p in self._net.parameters())

    def rehearse(self) -> None:
        """With codes and the discriminator, whenever they begin."""
        t = self.config.trainer
        self._backward(self.task.batch(range(t.micro_batch)), t.micro_batch, plain=False, judged=True)
        self._codes.forget()

    def smaller(self) -> tuple[str, list[str]]:
        t = self.config.trainer
        share = t.global_batch // self.world.size
        fits = largest(share, t.micro_batch - 1, 1)
        return f"{t.micro_batch} {self.task.item}s at once", [f"trainer.micro_batch={fits}"] if fits else []

    # -- a step

    def stream(self, state: Mapping[str, Any]) -> Generator[list[Tensor], None, None]:
        t, world = self.config.trainer, self.world
        share = t.global_batch // world.size

        def steps() -> Iterator[list[Tensor]]:
            number = int(state["step"])
            while True:
                first = number * t.global_batch + world.rank * share
                yield [self.task.batch(range(at, at + t.micro_batch)) for at in range(first, first + share, t.micro_batch)]
                number += 1

        return ahead(steps())

    def slow_data(self) -> str:
        return f"one thread makes the {self.task.item}s of a step; leave more cores to the process, or a faster disk"

    def weight(self, micro_batches: Sequence[Tensor]) -> int:
        return sum(map(len, micro_batches))

    def begin(self, step: int, state: Mapping[str, Any]) -> dict[str, float]:
        factor = rate_of(self.config, step, int(state["schedule_steps"])) / self.config.optim.lr
        for optimizer, peak in zip(self.optimizers, self._peaks, strict=True):
            set_learning_rate(optimizer, peak * factor)
        self._restarts = step <= self.task.config.quantizer.restart_until * int(state["schedule_steps"])
        if step == self.task.config.plain_steps + 1:
            self._begin_codes(step)
        return {"train/lr": self.config.optim.lr * factor}

    @torch.no_grad()
    def _begin_codes(self, step: int) -> None:
        """On as many of the encoder's outputs as the quantizer asks for, of the items that come next, at least a step's.

        Every rank encodes all of them, so that none needs another.
        """
        t, wanted = self.config.trainer, self._codes.quantizer.wants
        found: list[Tensor] = []
        at = first = (step - 1) * t.global_batch
        while at == first or (at - first) % t.global_batch or sum(map(len, found)) < wanted:  # whole steps, however dealt
            items = self.task.batch(range(at, at + t.micro_batch)).to(self.world.device)
            with autocast(items.device, self.dtype):
                found.append(self._net.encode(items).flatten(0, 1))
            at += t.micro_batch
        self._codes.begin(t.global_batch * len(found[0]) // t.micro_batch, torch.cat(found))

    @cached_property
    def _losses(self) -> Any:
        return self.task.losses(self.world.device)

    def backward(self, batch: Tensor, weight: int, step: int) -> Tensor:
        """-> items, then the sum over them of each loss."""
        judged = self._adversary is not None and self._adversary.begins(step)
        found = self._backward(batch, weight, plain=step <= self.task.config.plain_steps, judged=judged)
        self._names = list(found)
        items = torch.full((), len(batch), dtype=torch.float32, device=self.world.device)  # filled there: a copy would wait
        return torch.stack([items, *found.values()]).double()

    def _backward(self, batch: Tensor, weight: int, *, plain: bool, judged: bool) -> dict[str, Tensor]:
        batch = batch.to(self.world.device)
        vectors, choice, output = passed(self._net, self._codes.quantizer, batch, self.dtype, plain=plain)
        losses = self._losses(output, batch)
        total = torch.stack(list(losses.values())).sum() / weight
        added = total.new_zeros(()) if choice is None else choice.loss * (len(batch) / weight)
        found = {name: loss.detach().sum() for name, loss in losses.items()}
        if judged and self._adversary is not None:
            (pulled,) = torch.autograd.grad(total, output)
            with autocast(self.world.device, self.dtype):
                pulled = self._adversary.pull(output, pulled)
                found["discriminator"] = self._adversary.learn(batch, output, weight).sum()
            roots, gradients = ([output, added], [pulled, None]) if added.requires_grad else ([output], [pulled])
            torch.autograd.backward(roots, gradients)
        else:
            torch.autograd.backward(total + added)
        if choice is not None:
            self._codes.note(vectors.detach(), choice.codes)
            found["codes"] = choice.loss.detach() * len(batch)
        return found

    def row(self, sums: Sequence[float]) -> dict[str, float]:
        """`loss`: what the autoencoder learns by, without the discriminator's own."""
        items, *each = sums
        found = {f"train/loss_{name}": value / items for name, value in zip(self._names, each, strict=True)}
        return {"train/loss": sum(v for k, v in found.items() if k != "train/loss_discriminator")} | found

    def after_backward(self) -> None:
        """Gradients of the codes: they are not sharded, so nobody else adds them up."""
        for p in self._codes.quantizer.parameters():
            if p.grad is not None:
                p.grad = self.world.sum(p.grad)

    def watched(self) -> dict[str, list[nn.Parameter]]:
        return {} if self._adversary is None else {"discriminator": list(self._adversary.parameters())}

    def after_update(self, step: int, *, made: bool) -> dict[str, float]:
        """The codes follow, and the average of the weights."""
        if not made:
            self._codes.forget()
            return {}
        row = self._codes.update(step, restart=self._restarts)
        with torch.no_grad():
            decay = min(self.task.config.weight_ema, (step - 1) / (step + 9))
            for kept, new in zip(self._average.parameters(), self._net.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return row

    def count(self, state: dict[str, Any], step: int) -> None:
        state.update(items=state["items"] + self.of_step())

    def of_step(self) -> int:
        return self.config.trainer.global_batch

    @cached_property
    def _flops(self) -> float:
        t, step = self.config.trainer, describe_tokenizer(self.config)["flops"]["step"]
        return float(t.global_batch / t.micro_batch * (step["forward"] + step["backward"]) + step["optimizer"])

    def flops(self, step: int) -> float:
        """Of a step with codes, without the discriminator's."""
        return self._flops

    # -- reports

    @property
    def _file(self) -> str:
        return f"{self.task.config.name}.safetensors"

    def evaluate(self) -> Figures:
        """Writes the weights as they stand into the run folder, and judges that file."""
        tensors = gathered(self._average)
        return self.world.on_main(lambda: self._judged(tensors))

    def _judged(self, tensors: dict[str, Tensor]) -> Figures:
        model, path = self.task.model(), run_path(self.config) / self._file
        model.load_state_dict(tensors)
        self.task.save(path, model, self._codes.table())
        return self.task.judged(path, self.world.device)

    def report(self, found: Figures, state: Mapping[str, Any], logger: Logger) -> None:
        logger.evaluation({"step": state["step"], "items": state["items"], **found})
        figures = ", ".join(f"{name.removeprefix('eval/').replace('_', ' ')} {value:.3f}" for name, value in found.items())
        early = state["step"] <= self.task.config.plain_steps
        logger.message(f"held out: {figures}" + (" (codes begin later: these are none yet)" if early else ""))

    def renew(self, job: Job[Any], path: Path, state: dict[str, Any], found: Figures, logger: Logger) -> None:
        for folder in ("plots", "samples"):
            (path / folder).mkdir(exist_ok=True)
        plot_series(path / "metrics.jsonl", path / "plots" / "loss.png")
        self.task.sheet(path / self._file, path / "samples" / "reconstruction.png", self.world.device)

    def finish(self, job: Job[Any], path: Path, state: dict[str, Any], found: Figures, logger: Logger) -> None:
        self.renew(job, path, state, found, logger)
        facts: dict[str, Any] = {"steps": state["step"], "items": state["items"], "seconds": round(state["seconds"], 3)}
        facts |= {"threads": torch.get_num_threads(), "config": dataclasses.asdict(self.config)}
        out = Path(self.config.out)
        out.mkdir(parents=True, exist_ok=True)
        report = self.task.finish(Path(shutil.copy(path / self._file, out)), facts, self.world.device, logger.message)
        write_aside(path / "report.json", json.dumps({**found, **facts, **report}, indent=1) + "\n")
        logger.message(f"run folder: {path}; for more steps: {more(self.config, state['step'])}")
