"""`python -m momafuse.describe +experiment=moma_4t4i size=1_4b`: layers, parameters, FLOPs and memory of what train would run.

`tokenizer=vqgan_512`: the same of what train_tokenizer would train. Built on fake tensors: no corpus, no weights, no device and
no network, in seconds. `format=json` prints the same as JSON.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from momafuse.config.compose import Job, compose_jobs, group_options
from momafuse.config.describe import DescribeConfig, DescribeTokenizer, described
from momafuse.config.entry import entry_point, write
from momafuse.config.nearest import did_you_mean
from momafuse.config.shares import fitted, in_place
from momafuse.errors import UserError
from momafuse.tokens.config import BPEConfig

if TYPE_CHECKING:
    from momafuse.parallel.precision import Working
    from momafuse.reports.gpus import Gpu
    from momafuse.reports.memory import Memory

# The dense model of the same shape: these overrides after the user's own. Its FLOPs know no image share.
DENSE = (
    "model.experts={all: 1}",
    "model.untie=[]",
    "model.width_share=null",
    "model.width_share={}",
    "model.depth=null",
    "data.image_share=0.5",
)
WIDTH = 150  # where the output is no terminal
MOD = "_mod"  # size=NAME_mod has the FLOPs of size=NAME


@entry_point(
    "describe",
    help="Say what a config would train: layers, parameters, FLOPs a token and memory. Needs no corpus and no device. "
    "tokenizer=FILE alone, one that train_tokenizer takes, describes that tokenizer. format=json prints the same as JSON.",
    schema=DescribeConfig,
    meant=described,
)
def main(job: Job[Any]) -> None:
    """Of a DescribeConfig or a DescribeTokenizer."""
    from rich.console import Console  # after composing: a misspelt key should not wait for torch

    from momafuse.reports.description_table import description_table
    from momafuse.reports.tokenizer_table import tokenizer_table

    tokenizer = isinstance(job.config, DescribeTokenizer)
    values = description_of_tokenizer(job.config) if tokenizer else description(job)
    if job.config.format == "json":
        write(json.dumps(values, indent=2) + "\n")
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    with console.capture() as table:
        console.print((tokenizer_table if tokenizer else description_table)(values))
    write(table.get())


def description_of_tokenizer(config: DescribeTokenizer) -> dict[str, object]:
    """The values of reports/tokenizer.py. Raises UserError for what cannot be built and what has no layers."""
    from momafuse.reports.tokenizer import describe_tokenizer

    if isinstance(config.tokenizer, BPEConfig):
        raise UserError(
            "tokenizer.kind=bpe: has no layers to describe; take one of pictures or speech, e.g. tokenizer=vqgan_512"
        )
    return describe_tokenizer(fitted(config, 1))


def description(job: Job[DescribeConfig]) -> dict[str, object]:
    """The values of reports/description.py. Raises UserError, as train does, where ids or budget do not fit."""
    import torch
    from torch._subclasses import FakeTensorMode

    from momafuse.data.codecs import load_codecs, vocabulary_of
    from momafuse.parallel.precision import resolve_device, resolve_precision, working
    from momafuse.parallel.scaling import Cluster, scaling
    from momafuse.reports.description import Subject, describe
    from momafuse.reports.memory import measure
    from momafuse.tokens.text import TextTokenizer
    from momafuse.training.fake import fake_forward, fake_model
    from momafuse.training.setup import check_vocabulary

    config = job.config
    if config.router.auxiliary:
        raise UserError("router.auxiliary=true: describe counts a pretraining step; the report of that stage has its FLOPs")
    gpu, nodes = gpu_of(config), config.launch.nodes
    cluster = None if nodes is None else Cluster(nodes, config.launch.gpus_per_node, config.trainer.replicas)
    if cluster is not None:
        check_cluster(config, cluster.ranks)
    ranks = 1 if cluster is None else cluster.ranks
    config = fitted(config, ranks)
    t = config.trainer
    v = vocabulary_of(TextTokenizer.load(config.tokenizer["text"]), load_codecs(config.tokenizer))
    budget = check_vocabulary(config, v)
    device = (
        torch.device("cuda") if t.device == "cuda" or gpu is not None else resolve_device(t.device)
    )  # a GPU may be asked about from anywhere
    dtype = resolve_precision(t.precision, device)
    on_gpu = device.type == "cuda"
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = fake_model(config, v, dtype, on_gpu=on_gpu)

        def measured(under: Working, *, accumulates: bool) -> Memory:
            forward = partial(fake_forward, config, v, budget)
            return measure(model, forward, under, accumulates=accumulates, on_gpu=on_gpu)

        memory = measured(working(model, dtype), accumulates=t.global_batch // ranks > t.micro_batch)
        plan = None
        if cluster is not None:
            efficiency = config.describe.efficiency
            plan = scaling(config, model, budget, measured(nullcontext, accumulates=True), dtype, cluster, gpu, efficiency)
    size, precision = job.choices.get("size", ""), str(dtype).removeprefix("torch.")
    dense_size, dense = dense_of(job)
    said = in_place(job.config, config, ranks)
    values = describe(Subject(config, size, model, budget, memory, device.type, precision, dense, dense_size, said))
    if plan is None:
        return values
    return values | {"scaling": {"gpu": config.describe.gpu, "efficiency": config.describe.efficiency} | plan}


def gpu_of(config: DescribeConfig) -> Gpu | None:
    """Raises UserError for a name that the table has not."""
    from momafuse.reports.gpus import GPUS

    name = config.describe.gpu
    if name is not None and name not in GPUS:
        raise UserError(f"describe.gpu={name}: no such GPU{did_you_mean(name, GPUS)} ({', '.join(GPUS)})")
    return None if name is None else GPUS[name]


def check_cluster(config: DescribeConfig, ranks: int) -> None:
    """Raises UserError where train could not share the step out."""
    if ranks < 1:
        raise UserError(f"launch.nodes={config.launch.nodes}: there must be at least one GPU in all")
    if ranks % config.trainer.replicas:
        raise UserError(f"trainer.replicas={config.trainer.replicas}: must divide the {ranks} ranks")
    if not 0 < config.describe.efficiency <= 1:
        raise UserError(f"describe.efficiency={config.describe.efficiency}: must be above 0 and at most 1, e.g. 0.5")


def dense_of(job: Job[DescribeConfig]) -> tuple[str, DescribeConfig | None]:
    """The dense model that FLOPs are compared with, and its size: the one that size=NAME_mod matches, else the job's own."""
    size, words = job.choices.get("size", ""), job.overrides
    if size.endswith(MOD) and size.removesuffix(MOD) in group_options(job.user_dir)["size"]:
        size = size.removesuffix(MOD)
        words = [*(word for word in words if not word.startswith("size=")), f"size={size}"]
    try:
        return size, compose_jobs([*words, *DENSE], "describe", DescribeConfig, user_dir=job.user_dir)[0].config
    except UserError:  # an override that fits the one size and not the other, e.g. a number of heads
        return size, None


if __name__ == "__main__":
    main()
