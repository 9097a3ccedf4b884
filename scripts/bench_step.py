"""Step time of experiments against `dense`, paired in one process: whole training steps, and the blocks alone.

    python scripts/bench_step.py moe_1t1i moma_4t4i --size nano --precision bf16

A round runs one step of each experiment in turn, so that a machine whose speed drifts slows all of them alike, and each
round begins with another one, since the first pays for memory that the allocator had given back; ratios are medians over the
rounds of the ratio within a round. The whole step is forward and backward of `--accumulate` micro-batches of random ids with
the exact budget, clipping and the optimizer, whose cost follows the parameters and not the tokens: with one micro-batch a step
it weighs more than in a run. The blocks alone are forward and backward of one micro-batch without loss and optimizer.

Prints JSON: {"dense": {"seconds": s, "ratio": 1.0, "blocks_ratio": 1.0, "tokens_per_second": n, "tflops": f}, ..., "dtype": d,
"threads": ..., "rounds": ...}; `tflops` are those of the model (reports/flops.py), without what is computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from momafuse.config.compose import compose
from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.data.budget import modality_budget
from momafuse.errors import UserError
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from momafuse.parallel.precision import resolve_device, resolve_precision
from momafuse.reports.flops import TRAINING, forward_flops
from momafuse.reports.work import model_work
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.optimizer import build_optimizer
from momafuse.training.setup import build_model
from momafuse.world import World

STARTER = Vocabulary.build(image_codes=8192, image_block=64, text_pieces=4088)  # the ids of the starter corpus


def random_batch(config: Config, vocabulary: Vocabulary) -> Batch:
    """One micro-batch: text first, then pictures, random ids, the exact budget in every sequence."""
    budget = modality_budget(config.data, vocabulary, config.model.groups(vocabulary.names))
    rng = np.random.default_rng(0)
    b, s = config.trainer.micro_batch, config.data.sequence_length
    modality = np.broadcast_to(np.repeat(np.arange(len(budget)), budget), (b, s))
    first = np.array([m.first for m in vocabulary.modalities])[modality]
    count = np.array([m.count for m in vocabulary.modalities])[modality]
    tokens = torch.from_numpy(first + rng.integers(0, 1 << 30, (b, s)) % count)
    return Batch(
        tokens=tokens,
        targets=torch.cat([tokens[:, 1:], torch.full((b, 1), -1)], dim=1),
        modality=torch.from_numpy(modality.astype(np.uint8)),
        document=torch.zeros(b, s, dtype=torch.int32),
        position=torch.arange(s, dtype=torch.int32).expand(b, s).contiguous(),
        sequence=torch.arange(b),
        order=torch.from_numpy(np.argsort(modality.reshape(-1), kind="stable")),
        budget=budget,
    )


def steps(config: Config, accumulate: int = 1) -> tuple[Callable[[], None], Callable[[], None]]:
    """The whole training step of one experiment, and its blocks alone."""
    device = resolve_device(config.trainer.device)
    model, _ = build_model(config, STARTER, World(0, 1, device, None, None))
    return steps_of(config, model, build_optimizer(model, config.optim), device, accumulate)


def steps_of(
    config: Config, model: Transformer, optimizer: Optimizer, device: torch.device, accumulate: int = 1
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The same of a model that is there, sharded or not, on a micro-batch of this process."""
    batch = random_batch(config, STARTER).to(device)
    targets = batch.targets.flatten()
    weights = torch.full(targets.shape, 1 / int((targets >= 0).sum()), device=device)

    def loss(hidden: Tensor, head: Tensor) -> Tensor:
        return next_token(hidden, head, targets, weights, config.objective.z_loss).total

    def whole() -> None:
        for _ in range(accumulate):
            model(batch, loss)[0].backward()
        clip_grad_norm_(model.parameters(), config.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait(device)

    def blocks() -> None:
        model(batch, lambda hidden, head: hidden.float().mean())[0].backward()
        optimizer.zero_grad(set_to_none=True)
        wait(device)

    return whole, blocks


def training_tflop(config: Config) -> float:
    """TFLOPs of the model a token: forward, and backward twice as much."""
    budget = modality_budget(config.data, STARTER, config.model.groups(STARTER.names))
    work = model_work(config.model, config.router, STARTER.names, budget)
    return TRAINING * sum(forward_flops(config.model, work, config.model.vocabulary_size or STARTER.size).values()) / 1e12


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Callable[[], None]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def measure(
    experiments: list[str], overrides: list[str], precision: str, rounds: int, accumulate: int = 1
) -> dict[str, object]:
    """Medians of paired rounds; `dense` is the base of every ratio."""
    words = [*overrides, f"trainer.precision={precision}"]
    configs = {name: compose([f"+experiment={name}", *words]).config for name in experiments}
    device = resolve_device(configs["dense"].trainer.device)
    dtype = resolve_precision(configs["dense"].trainer.precision, device)
    actions = {name: steps(config, accumulate) for name, config in configs.items()}
    for whole, blocks in actions.values():
        for _ in range(3):  # warm: kernels chosen, optimizer state made
            whole()
            blocks()
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in experiments}
    for i in track(range(rounds), "rounds", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        turn = i % len(experiments)
        for kind in (0, 1):
            for name in experiments[turn:] + experiments[:turn]:
                times[name][kind].append(seconds(actions[name][kind]))

    def ratio(name: str, kind: int) -> float:
        return statistics.median(a / b for a, b in zip(times[name][kind], times["dense"][kind], strict=True))

    def per_second(name: str) -> float:
        t = configs[name]
        return accumulate * t.trainer.micro_batch * t.data.sequence_length / statistics.median(times[name][0])

    result: dict[str, object] = {
        name: {
            "seconds": round(statistics.median(times[name][0]), 5),
            "ratio": round(ratio(name, 0), 4),
            "blocks_seconds": round(statistics.median(times[name][1]), 5),
            "blocks_ratio": round(ratio(name, 1), 4),
            "tokens_per_second": round(per_second(name)),
            "tflops": round(per_second(name) * training_tflop(configs[name]), 3),
        }
        for name in experiments
    }
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    facts = {"dtype": str(dtype).removeprefix("torch."), "device": device_name, "rounds": rounds, "accumulate": accumulate}
    return result | facts | {"threads": torch.get_num_threads(), "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=["moe_1t1i", "moma_2t2i", "moma_4t4i", "moe_8x"])
    parser.add_argument("--size", default="nano")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="micro-batches a step")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides, as for momafuse.train")
    args = parser.parse_args()
    names = ["dense", *(e for e in args.experiments if e != "dense")]
    try:
        words = [f"size={args.size}", *args.set]
        print(json.dumps(measure(names, words, args.precision, args.rounds, args.accumulate), indent=1))
    except UserError as error:
        raise SystemExit(f"bench_step: error: {error}") from None


if __name__ == "__main__":
    main()
