"""`index.html` of a run: what it is, how its losses went, what its experts took, what it draws and writes, what to try next.

One file, written at every evaluation. Computes no loss; the plots are those of finish.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from momafuse.config.compose import Job
from momafuse.data.corpus import Corpus
from momafuse.files import write_aside
from momafuse.reports.pages import embedded, rendered
from momafuse.training.held_out import HeldOut
from momafuse.training.samples import Sample, generator_of, make_samples
from momafuse.training.setup import Setup

PLOTS = {"loss": "Losses", "routing": "What the experts took", "experts": "How many experts took a row"}


def write_page(
    job: Job,
    setup: Setup,
    corpus: Corpus,
    path: Path,
    state: Mapping[str, Any],
    held_out: HeldOut,
    frequencies: Mapping[str, float],
    next_commands: Sequence[str],
) -> None:
    """Of the run in `path`, whose plots and sheets are embedded where they are there."""
    losses = [(name, held_out.losses[f"eval/loss_{name}"], frequencies.get(f"unigram/{name}"))
              for name in corpus.vocabulary.names if f"eval/loss_{name}" in held_out.losses]  # fmt: skip
    plots = [(title, _picture(path / "plots" / f"{name}.png")) for name, title in PLOTS.items()]
    sheets = [_picture(file) for file in sorted((path / "samples").glob("reconstruction*.png"))]
    page = rendered(
        "run.html",
        title=path.name,
        facts=facts(job, setup, state),
        losses=losses,
        routing=held_out.routing,
        plots=[(title, picture) for title, picture in plots if picture],
        sheets=sheets,
        samples=[_shown(sample) for sample in samples_of(job, setup, corpus)],
        no_samples=_why_none(path, setup, job),
        commands=next_commands,
    )
    write_aside(path / "index.html", page)


def samples_of(job: Job, setup: Setup, corpus: Corpus) -> list[Sample]:
    """Made with the weights as they stand; the model is left in training mode, as it was."""
    generator = generator_of(job.config, setup, corpus.vocabulary)
    if generator is None:
        return []
    setup.model.eval()
    with setup.working():
        found = make_samples(generator, corpus.validation)
    setup.model.train()
    return found


def facts(job: Job, setup: Setup, state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The config in short."""
    c, parameters = job.config, sum(p.numel() for p in setup.model.parameters())
    m, budget = c.model, dict(zip(setup.model.modality_names, setup.plan.budget, strict=True))
    experts = ", ".join(f"{name}: {count}" for name, count in m.groups(setup.model.modality_names).items())
    return [
        ("model", f"{m.name}, {m.n_layers} layers, width {m.dim}, {m.n_heads} heads, {parameters / 1e6:.1f}M parameters"),
        ("experts", experts),
        ("sequences", ", ".join(f"{count} {name}" for name, count in budget.items()) + " tokens"),
        ("data", c.data.name),
        ("steps", f"{state['step']:,} of {state['schedule_steps']:,}, {state['tokens']:,} tokens, {state['flops']:.3g} FLOPs"),
        ("time", f"{state['seconds']:,.0f} s on {setup.world.size} x {setup.world.device}"),
        ("seed", str(c.run.seed)),
        ("command", "python -m momafuse.train " + shlex.join(job.words(job.overrides))),
    ]


def _why_none(path: Path, setup: Setup, job: Job) -> str:
    if setup.world.mesh is not None:
        return f"python -m momafuse.generate run={path}"
    if setup.model.needs_auxiliary and not job.config.router.auxiliary:
        return f"python -m momafuse.train +experiment=aux_routers model_from={path}"
    return ""


def _picture(file: Path) -> Markup | None:
    return embedded("png", file.read_bytes(), file.stem) if file.exists() else None


def _shown(sample: Sample) -> dict[str, Any]:
    drawn = embedded(*sample.drawn, sample.text) if sample.drawn else None
    item = embedded(*sample.item) if sample.item else f"{sample.modality}: its tokenizer has no decoder"
    return {"modality": sample.modality, "text": sample.text, "item": item, "drawn": drawn, "written": sample.written}
