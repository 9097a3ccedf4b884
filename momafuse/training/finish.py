"""The end of a run: the last evaluation, report.json, plots, a sheet of reconstructions, and what to try next.

`report.json` is written last: a run that has one is whole.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from momafuse.config.compose import SPOKEN, Job
from momafuse.config.schema import Config
from momafuse.data.codecs import decodes, load_codecs
from momafuse.data.corpus import Corpus
from momafuse.data.sources import Item, Raw, open_source
from momafuse.errors import UserError
from momafuse.files import write_aside
from momafuse.reports.logger import Logger
from momafuse.reports.plots import Chosen, plot_experts, plot_losses, plot_reconstructions
from momafuse.routing.statistics import RoutingCounts
from momafuse.training.held_out import HeldOut, unigram
from momafuse.training.page import write_page
from momafuse.training.router_report import summary as summary_of_routers
from momafuse.training.router_report import written
from momafuse.training.routing_shown import draw_routing
from momafuse.training.schedule import more
from momafuse.training.setup import Setup

SAMPLES = 16  # pictures on the sheet of reconstructions, spread over the first held-out ones
SEES_THE_FUTURE = "training routing: sees the future (what a router chooses depends on later rows too)"


def report_evaluation(held_out: HeldOut, state: Mapping[str, Any], logger: Logger) -> None:
    """A row of metrics, and the warning without which a loss under expert choice misleads."""
    counts = {key: state[key] for key in ("step", "tokens", "flops")}
    routers = {} if held_out.router is None else summary_of_routers(held_out.router.entries)
    logger.evaluation({**counts, **held_out.losses, **routers, "eval/routing": held_out.routing})
    if held_out.routing == "training":
        logger.message(SEES_THE_FUTURE)


def finish(
    job: Job, setup: Setup, corpus: Corpus, path: Path, state: dict[str, float], held_out: HeldOut, logger: Logger
) -> None:
    """Write report, plots and samples into the run folder, and say where they are."""
    (path / "samples").mkdir(exist_ok=True)
    try:
        reconstruct(job.config, corpus, path / "samples", logger.message)
    except UserError as error:  # a corpus may travel without its sources
        logger.message(f"no samples/reconstruction.png: {error}")
    frequencies = unigram(job.config, setup, corpus)
    report: dict[str, Any] = {**held_out.losses, "eval/routing": held_out.routing, **frequencies}
    report |= {"steps": state["step"], "tokens": state["tokens"], "seconds": round(state["seconds"], 3)}
    report |= {} if held_out.router is None else {"router": held_out.router.entries}
    draw(job, setup, corpus, path, state, held_out, frequencies, logger)
    write_aside(path / "report.json", written(report))
    for line in summary(job, path, report):
        logger.message(line)


def renew(
    job: Job, setup: Setup, corpus: Corpus, path: Path, state: dict[str, float], held_out: HeldOut, logger: Logger
) -> None:
    """Plots and page of the run as it stands after an evaluation."""
    draw(job, setup, corpus, path, state, held_out, unigram(job.config, setup, corpus), logger)


def draw(
    job: Job,
    setup: Setup,
    corpus: Corpus,
    path: Path,
    state: dict[str, float],
    held_out: HeldOut,
    frequencies: dict[str, float],
    logger: Logger,
) -> None:
    """The same with the losses of tables of frequencies at hand."""
    (path / "plots").mkdir(exist_ok=True)
    plot_losses(path / "metrics.jsonl", path / "plots" / "loss.png", frequencies)
    if setup.model.chooses_experts and held_out.counts:
        plot_experts(chosen_report(held_out.counts, setup, corpus), path / "plots" / "experts.png")
    if held_out.router is not None:
        draw_routing(job.config, setup.model, corpus.vocabulary, held_out.router, path, int(state["step"]))
    write_page(job, setup, corpus, path, state, held_out, frequencies, next_commands(job, int(state["step"])))
    logger.page(path / "index.html", int(state["step"]))


def chosen_report(counts: list[RoutingCounts], setup: Setup, corpus: Corpus) -> Chosen:
    """By group, or `GROUP: MODALITY` of a group of several: shares of rows chosen by 0, 1 and more experts, layer by layer."""
    chosen = torch.stack([c.chosen for c in counts]).cpu().double()  # (layers, M, 3)
    report: Chosen = {}
    for g in setup.model.groups:
        for m in g.modalities:
            name = g.name if len(g.modalities) == 1 else f"{g.name}: {corpus.vocabulary.names[m]}"
            report[name] = (chosen[:, m] / chosen[:, m].sum(-1, keepdim=True).clamp(min=1)).numpy()
    return report


def reconstruct(config: Config, corpus: Corpus, folder: Path, say: Callable[[str], None]) -> None:
    """Of each modality: held-out items, and what is left of them after its codec, unless it only encodes. Raises UserError
    without their sources."""
    for modality, codec in load_codecs(config.tokenizer).items():
        if not decodes(codec):
            say(f"no sheet of what is left of {modality}: tokenizer.{modality} has no decoder")
            continue
        number = corpus.vocabulary.names.index(modality)
        holding = [source.name for source in corpus.validation.sources if source.items[number]]
        sources = [open_source(name, config.data.sources[name]) for name in holding]
        held_out = (i for source in sources for i in source.items() if i.split == "validation" and _raw(i, modality))
        first = list(itertools.islice(held_out, 16 * SAMPLES))
        originals, captions = [], []
        for n in np.linspace(0, len(first) - 1, min(SAMPLES, len(first))).astype(int):
            with contextlib.suppress(ValueError, OSError):  # one that prepare had rejected too
                originals.append(codec.read(_raw(first[n], modality)[0].read()))
                captions.append(" ".join(s for s in first[n].segments if isinstance(s, str)))
        kept = [codec.decode(codes) for codes in codec.encode(originals)] if originals else []
        if originals:
            suffix = "" if number == 1 else f"_{modality}"
            plot_reconstructions(codec.drawn(originals), codec.drawn(kept), captions, folder / f"reconstruction{suffix}.png")


def _raw(item: Item, modality: str) -> list[Raw]:
    return [s for s in item.segments if isinstance(s, Raw) and s.modality == modality]


def summary(job: Job, path: Path, report: Mapping[str, Any]) -> list[str]:
    """Where everything is, and the commands that a user would try next."""
    lines = [f"run folder: {path}"]
    for key, value in report.items():
        if key.startswith("eval/loss_"):
            frequency = report[key.replace("eval/loss_", "unigram/")]
            lines.append(f"  {key} {value:.3f} nats (a table of frequencies: {frequency:.3f})")
    commands = [f"  {command}" for command in next_commands(job, int(report["steps"]))]
    return [*lines, f"  {path / 'report.json'}, {path / 'index.html'}", "next:", *commands]


def next_commands(job: Job, steps: int) -> list[str]:
    """To go on, to compare, to see the spread over seeds."""
    dense, sparse = ("dense_speech", "moma_4t4i2s") if job.config.model.name in SPOKEN else ("dense", "moma_4t4i")
    other = sparse if job.config.model.name == dense else dense
    again = [w for w in job.overrides if not w.startswith(("run.name=", "resume="))]
    own_model = ("experiment=", "model=", "model.", "optim.train=", "upcycl")
    compared = [w for w in again if not w.lstrip("+").startswith(own_model)]
    if job.config.model.depth is not None:  # the other has none, and the FLOPs of the size without
        compared = [w.removesuffix("_mod") if w.startswith("size=") else w for w in compared]
    seeds = f"run.seed={job.config.run.seed + 1},{job.config.run.seed + 2}"
    more_seeds = f"python -m momafuse.train -m {_shell(job, again, seeds)}   # two more seeds"
    return [
        f"python -m momafuse.train {_shell(job, job.overrides, more(job.config, steps))}   # go on",
        f"python -m momafuse.train {_shell(job, [f'+experiment={other}', *compared])}   # compare",
        *([] if job.config.upcycle else [more_seeds]),  # a seed run and what is made from it share run.seed
    ]


def _shell(job: Job, words: list[str], *more: str) -> str:
    """The words of a command, those that are given again left out, quoted for a shell."""
    keys = {word.partition("=")[0] for word in more}
    return shlex.join(job.words([w for w in words if w.partition("=")[0] not in keys] + list(more)))
