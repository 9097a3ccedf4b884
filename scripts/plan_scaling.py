"""The tables of docs/scaling.md: what describe computes for 8 to 4,096 GPUs, as Markdown. Nothing is measured.

    python scripts/plan_scaling.py                                                   # moma_4t4i at size=1_4b on h100_sxm
    python scripts/plan_scaling.py +experiment=dense size=435m describe.gpu=a100_sxm

At the batch of the size as long as every GPU has a micro-batch of its own, then at one micro-batch a GPU; where a batch cannot
be dealt to so many, at the next larger one that can. Sharded over all GPUs; and over 8 (one node) or 64, with replicas of that.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial

import torch
from torch._subclasses import FakeTensorMode

from momafuse.config.compose import compose_jobs
from momafuse.config.describe import DescribeConfig
from momafuse.config.shares import fitted
from momafuse.data.codecs import load_codecs, vocabulary_of
from momafuse.describe import gpu_of
from momafuse.parallel.scaling import Cluster, scaling
from momafuse.reports.memory import Memory, measure
from momafuse.tokens.text import TextTokenizer
from momafuse.training.fake import fake_forward, fake_model
from momafuse.training.setup import check_vocabulary

DEFAULT = ["+experiment=moma_4t4i", "size=1_4b"]
ALWAYS = ["trainer.activation_checkpointing=full", "trainer.precision=bf16"]
GPUS = [8 * 2**i for i in range(10)]  # 8 .. 4,096
SHARDS = (None, 64, 8)  # ranks that share a model; None: all
HURTS = 0.9  # of the MFU on one node


def rows(config: DescribeConfig) -> list[tuple[int, int, dict[int | None, dict]]]:
    """GPUs, sequences a step, and the plan for each way to shard that fits."""
    gpu, t = gpu_of(config), config.trainer
    v = vocabulary_of(TextTokenizer.load(config.tokenizer["text"]), load_codecs(config.tokenizer))
    budget = check_vocabulary(config, v)
    found = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = fake_model(config, v, torch.bfloat16, on_gpu=True)

    @cache
    def memory(micro_batch: int) -> Memory:
        taken = replace(config, trainer=replace(t, micro_batch=micro_batch))
        with FakeTensorMode(allow_non_fake_inputs=True):
            return measure(model, partial(fake_forward, taken, v, budget), nullcontext, accumulates=True, on_gpu=True)

    for ranks in GPUS:
        unit = ranks * config.together
        batch = -(-max(t.global_batch, ranks * (t.micro_batch // config.together * config.together)) // unit) * unit
        plans = {}
        for shards in SHARDS:
            if shards is None or shards < ranks:
                copies = 1 if shards is None else ranks // shards
                asked = fitted(replace(config, trainer=replace(t, global_batch=batch, replicas=copies)), ranks)
                cluster, efficiency = Cluster(ranks // 8, 8, copies), config.describe.efficiency
                own = memory(asked.trainer.micro_batch)
                plans[shards] = scaling(asked, model, budget, own, torch.bfloat16, cluster, gpu, efficiency)
        found.append((ranks, batch, plans))
    return found


def table(found: list[tuple[int, int, dict[int | None, dict]]]) -> list[str]:
    lines = [
        "| GPUs | sequences a step | GiB a GPU | GB received a step | compute, s | communication, s | step, s | MFU "
        "| MFU, 64 share a model | MFU, 8 share a model (GiB a GPU) |",
        "|---:|" + "---:|" * 9,
    ]
    for ranks, batch, plans in found:
        plan = plans[None]
        s, received = plan["seconds"], sum(n for sizes in plan["bytes_received"].values() for n in sizes.values())
        cells = [f"{ranks:,}", f"{batch:,}", gib(plan), f"{received / 1e9:,.0f}"]
        cells += [f"{s[key]:.3g}" for key in ("compute", "communication", "step")] + [f"{s['mfu']:.1%}"]
        cells.append(f"{plans[64]['seconds']['mfu']:.1%}" if 64 in plans else "")
        cells.append(f"{plans[8]['seconds']['mfu']:.1%} ({gib(plans[8])})" if 8 in plans else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdict(found: list[tuple[int, int, dict[int | None, dict]]]) -> str:
    """Where sharding over all begins to hurt."""
    first = found[0][2][None]["seconds"]["mfu"]
    hurt = next((ranks for ranks, _, plans in found if plans[None]["seconds"]["mfu"] < HURTS * first), None)
    if hurt is None:
        return f"Sharded over all GPUs, MFU stays within 10 % of one node's up to {GPUS[-1]:,} GPUs."
    return f"Sharded over all GPUs, MFU is first more than 10 % below one node's at {hurt:,} GPUs."


def gib(plan: dict) -> str:
    return f"{plan['memory']['total'] / 2**30:,.1f}"


def main() -> None:
    words = sys.argv[1:] or DEFAULT
    if not any(word.startswith("describe.gpu=") for word in words):
        words = [*words, "describe.gpu=h100_sxm"]
    config = compose_jobs([*words, *ALWAYS], "describe", DescribeConfig)[0].config
    found = rows(config)
    print("\n".join([f"`python scripts/plan_scaling.py {' '.join(words)}`", "", *table(found), "", verdict(found)]))


if __name__ == "__main__":
    main()
