"""What a run that starts now would read, without starting it: the plan of its mixture, and some of its sequences on a page."""

from __future__ import annotations

from rich.console import Console

from momafuse.config.schema import Config
from momafuse.data.codecs import load_codecs
from momafuse.data.corpus import Corpus
from momafuse.data.loader import Loader
from momafuse.data.stages import StagedPlan
from momafuse.files import write_aside
from momafuse.reports.mixture import passed_often, plan_tree, planned, taken
from momafuse.reports.sequences import Sampler
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT
from momafuse.training.schedule import planned_steps, stage_begins
from momafuse.training.setup import check_vocabulary, training_plan

PAGE = "sample.html"  # in the corpus's folder


def show(config: Config, corpus: Corpus, console: Console, *, page: bool) -> None:
    """Prints what is taken of each source at the planned length; with `page` writes sequences, too. Raises UserError where
    the corpus cannot give the sequences that the config asks for."""
    plan = training_plan(config, corpus, check_vocabulary(config, corpus.vocabulary), stage_begins(config))
    batch = config.trainer.global_batch
    sequences = planned_steps(config) * batch
    console.print(plan_tree(plan, corpus, sequences, batch))
    for line in passed_often(plan.uses(sequences)):
        console.print(line, soft_wrap=True)
    if page:
        write_aside(corpus.path / PAGE, page_of(config, corpus, plan, sequences))
        console.print(str(corpus.path / PAGE), soft_wrap=True)


def page_of(config: Config, corpus: Corpus, plan: StagedPlan, sequences: int) -> str:
    """HTML of some of the first `sequences`."""
    batch = config.trainer.global_batch
    facts = [
        ("corpus", [str(corpus.path)]),
        ("planned", [planned(plan, corpus, sequences, batch)]),
        ("an epoch", [f"{plan.plans[0].sequences_per_epoch:,} sequences"]),
        ("seed", [str(config.run.seed)]),
        *((t.source, [f"{t.holds}: {t.passed}", *t.stages]) for t in taken(plan, corpus, sequences, batch)),
        *[("note", lines) for lines in [passed_often(plan.uses(sequences))] if lines],
    ]
    loader = Loader(corpus.train, corpus.vocabulary, plan, plan.budget, config.objective.answers_only)
    text, codecs = TextTokenizer.load(config.tokenizer[TEXT]), load_codecs(config.tokenizer)
    title = f"{config.data.name}: what the model sees"
    return Sampler(corpus.train, plan, loader, text, codecs).page(title, facts, sequences, batch)
