"""Step time of experiments against `dense`, paired in one process: whole training steps, and the blocks alone.

    python scripts/bench_step.py moe_1t1i moma_4t4i --size nano --precision bf16

Paired rounds and ratios as in scripts/timing.py. The whole step is forward and backward of `--accumulate` micro-batches of
random ids with the exact budget, in `--documents` documents a sequence, clipping and the optimizer, whose cost follows the
parameters and not the tokens: with one micro-batch a step it weighs more than in a run. The blocks alone are forward and
backward of one micro-batch without loss and optimizer. `--profile` says instead what a GPU ran in one whole step of
each experiment, kernel by kernel.

Prints JSON: {"dense": {"seconds": s, "ratio": 1.0, "blocks_ratio": 1.0, "tokens_per_second": n, "tflops": f}, ..., "dtype": d,
"threads": ..., "rounds": ..., "documents": ...}; `tflops` are those of the model (reports/flops.py), nothing computed again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timing import facts, kernels, paired, ratio, write
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from momafuse.config.compose import compose
from momafuse.config.schema import Config
from momafuse.data.batch import Batch, begins_of
from momafuse.data.budget import modality_budget
from momafuse.errors import UserError
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from momafuse.parallel.graphs import CudaCapture, Replayed, check_graphs
from momafuse.parallel.precision import Working, resolve_device, resolve_precision, working
from momafuse.reports.flops import TRAINING, forward_flops
from momafuse.reports.work import model_work
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.optimizer import build_optimizer
from momafuse.training.routers import RouterWork
from momafuse.training.setup import build_model
from momafuse.world import World

STARTER = Vocabulary.build(4088, image=(8192, 64))  # the ids of the starter corpus


def random_batch(config: Config, vocabulary: Vocabulary, documents: int = 1) -> Batch:
    """One micro-batch: text first, then pictures, random ids, the exact budget in every sequence, so many documents in each."""
    budget = modality_budget(config.data, vocabulary, config.model.groups(vocabulary.names))
    rng = np.random.default_rng(0)
    b, s = config.trainer.micro_batch, config.data.sequence_length
    modality = np.broadcast_to(np.repeat(np.arange(len(budget)), budget), (b, s))
    first = np.array([m.first for m in vocabulary.modalities])[modality]
    count = np.array([m.count for m in vocabulary.modalities])[modality]
    tokens = torch.from_numpy(first + rng.integers(0, 1 << 30, (b, s)) % count)
    document = torch.arange(s, dtype=torch.int32) * documents // s
    begins = torch.searchsorted(document, torch.arange(documents, dtype=torch.int32)).to(torch.int32)
    position = torch.arange(s, dtype=torch.int32) - begins[document]
    return Batch(
        tokens=tokens,
        targets=torch.cat([tokens[:, 1:], torch.full((b, 1), -1)], dim=1),
        modality=torch.from_numpy(modality.astype(np.uint8)),
        document=document.expand(b, s).contiguous(),
        position=position.expand(b, s).contiguous(),
        sequence=torch.arange(b),
        begins=begins_of(document.expand(b, s)),
        order=torch.from_numpy(np.argsort(modality.reshape(-1), kind="stable")),
        budget=budget,
    )


def steps(config: Config, accumulate: int = 1, documents: int = 1) -> tuple[Callable[[], None], Callable[[], None]]:
    """The whole training step of one experiment, and its blocks alone."""
    device = resolve_device(config.trainer.device)
    check_graphs(config, device, sharded=False)
    model, dtype = build_model(config, STARTER, World(0, 1, device, None, None))
    optimizer, under = build_optimizer(model, config.optim), working(model, dtype)
    return steps_of(config, model, optimizer, device, under, accumulate=accumulate, documents=documents)


def steps_of(
    config: Config,
    model: Transformer,
    optimizer: Optimizer,
    device: torch.device,
    under: Working,
    *,
    accumulate: int = 1,
    documents: int = 1,
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The same of a model that is there and computes `under` this, sharded or not, on a micro-batch of this process."""
    batch = random_batch(config, STARTER, documents).to(device)
    targets = batch.targets.flatten()
    weights = torch.full(targets.shape, 1 / int((targets >= 0).sum()), device=device)

    def loss(hidden: Tensor, head: Tensor) -> Tensor:
        return next_token(hidden, head, targets, weights, config.objective.z_loss).total

    routers = RouterWork(model, World(0, 1, device, None, None), accumulate)

    def micro_batch(batch: Batch, nth: Tensor) -> tuple[Tensor, ...]:
        total, decisions = model(batch, loss)
        of_routers, sums = routers.of_micro_batch(batch, decisions, nth)
        (total if of_routers is None else total + of_routers).backward()
        return (sums,)

    once = micro_batch
    if config.trainer.cuda_graphs:
        once = Replayed(micro_batch, [p for p in model.parameters() if p.requires_grad], CudaCapture(device))

    def whole() -> None:
        routers.begin()
        with under():
            done = [once(batch, torch.full((), nth, device=device))[0] for nth in range(1, accumulate + 1)]
        routers.update(torch.stack(done).sum(0))
        clip_grad_norm_(model.parameters(), config.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def blocks() -> None:
        with under():
            model(batch, lambda hidden, head: hidden.float().mean())[0].backward()
        optimizer.zero_grad(set_to_none=True)

    return whole, blocks


def training_tflop(config: Config) -> float:
    """TFLOPs of the model a token: forward, and backward twice as much."""
    budget = modality_budget(config.data, STARTER, config.model.groups(STARTER.names))
    work = model_work(config.model, config.router, STARTER.names, budget)
    return TRAINING * sum(forward_flops(config.model, work, config.model.vocabulary_size or STARTER.size).values()) / 1e12


def measure(
    experiments: list[str], overrides: list[str], precision: str, rounds: int, accumulate: int = 1, documents: int = 1
) -> dict[str, object]:
    """Medians of paired rounds; `dense` is the base of every ratio."""
    words = [*overrides, f"trainer.precision={precision}"]
    configs = {name: compose([f"+experiment={name}", *words]).config for name in experiments}
    device = resolve_device(configs["dense"].trainer.device)
    dtype = resolve_precision(configs["dense"].trainer.precision, device)
    actions = {name: steps(config, accumulate, documents) for name, config in configs.items()}
    # warm: kernels chosen, optimizer state made
    whole, blocks = (paired({n: a[kind] for n, a in actions.items()}, rounds, device, warm=3) for kind in (0, 1))

    def per_second(name: str) -> float:
        t = configs[name]
        return accumulate * t.trainer.micro_batch * t.data.sequence_length / statistics.median(whole[name])

    result: dict[str, object] = {
        name: {
            "seconds": round(statistics.median(whole[name]), 5),
            "ratio": ratio(whole[name], whole["dense"]),
            "blocks_seconds": round(statistics.median(blocks[name]), 5),
            "blocks_ratio": ratio(blocks[name], blocks["dense"]),
            "tokens_per_second": round(per_second(name)),
            "tflops": round(per_second(name) * training_tflop(configs[name]), 3),
        }
        for name in experiments
    }
    what = {"dtype": str(dtype).removeprefix("torch."), "rounds": rounds, "accumulate": accumulate, "documents": documents}
    return result | what | facts(device)


def profiled(experiment: str, overrides: list[str], precision: str, accumulate: int, documents: int) -> list[dict[str, object]]:
    """Milliseconds and number of each kernel of one whole step on a GPU, the longest first; nothing on a CPU."""
    config = compose([f"+experiment={experiment}", *overrides, f"trainer.precision={precision}"]).config
    device = resolve_device(config.trainer.device)
    if device.type != "cuda":
        raise UserError("--profile: needs a GPU; trainer.profile=10:12 of a run writes a trace anywhere")
    whole, _ = steps(config, accumulate, documents)
    for _ in range(3):
        whole()
    return [{"kernel": name, "ms": round(1e3 * taken, 3), "count": n} for name, taken, n in kernels(whole, device)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=["moe_1t1i", "moma_2t2i", "moma_4t4i", "moe_8x"])
    parser.add_argument("--size", default="nano")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="micro-batches a step")
    parser.add_argument("--documents", type=int, default=1, metavar="N", help="in a sequence, default 1")
    parser.add_argument("--profile", action="store_true", help="what the device ran, by kernel, instead of times")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides, as for momafuse.train")
    args = parser.parse_args()
    words = [f"size={args.size}", *args.set]
    how = args.precision, args.accumulate, args.documents
    try:
        if args.profile:
            write({name: profiled(name, words, *how) for name in args.experiments}, args.out)
        else:
            names = ["dense", *(e for e in args.experiments if e != "dense")]
            write(measure(names, words, args.precision, args.rounds, *how[1:]), args.out)
    except UserError as error:
        raise SystemExit(f"bench_step: error: {error}") from None


if __name__ == "__main__":
    main()
