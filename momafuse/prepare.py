"""`python -m momafuse.prepare data=starter`: makes the tokenised corpus of a config, or says that it is complete.

`show=plan` and `show=sample` then say what a run of the same words would take of it; a corpus that is there is read as it is,
as train reads it, so that its sources need not be there any more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point
from momafuse.config.prepare import PrepareConfig, check_preparation
from momafuse.errors import UserError
from momafuse.preemption import listen

if TYPE_CHECKING:
    from rich.console import Console

    from momafuse.data.corpus import Corpus


@entry_point(
    "prepare",
    help="Tokenise pictures and text into a corpus that train reads (train does it by itself on first use). "
    "Killed, the same command goes on where it stopped. show=plan lists what a run would take of each source, show=sample "
    "writes a page of packed sequences.",
    schema=PrepareConfig,
    check=check_preparation,
)
def main(job: Job[PrepareConfig]) -> None:
    from rich.console import Console

    from momafuse.data.making import ShareDone
    from momafuse.data.prepare import corpus_path, open_or_prepare, prepare_corpus  # a misspelt key should not wait

    config, path = job.config, corpus_path(job.config)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if config.show != "none" and path.exists():
        corpus = open_or_prepare(config)
    else:
        complete = path.exists()
        try:
            corpus = prepare_corpus(config, path, how=config.prepare)
        except ShareDone as done:
            console.print(str(done), soft_wrap=True)
            return
        console.print(f"{path} {'is complete' if complete else 'is made'}", soft_wrap=True)
        describe(job, corpus, path, console)
    if config.show != "none":
        from momafuse.training.showing import show

        show(config, corpus, console, page=config.show == "sample")


def describe(job: Job[PrepareConfig], corpus: Corpus, path: Path, console: Console) -> None:
    """What the corpus holds, and how well its tokenizers fit."""
    from momafuse.data.fit import fits
    from momafuse.reports.corpus import corpus_tree, fit_lines
    from momafuse.reports.plots import plot_reconstructions

    console.print(corpus_tree(corpus.manifest))
    if not list(path.glob("fit_*.png")):  # made by train, or left in the midst of it
        held: dict[str, set[str]] = {}
        for s in (*corpus.train.sources, *corpus.validation.sources):
            names = zip(corpus.vocabulary.names, s.items, strict=True)
            held.setdefault(s.name, set()).update(name for name, items in names if items)
        try:
            for fit in fits(job.config, held, console.print):
                sheet = path / f"fit_{fit.source}_{fit.modality}.png"
                labels, items, decoded = zip(*fit.worst, strict=True)
                plot_reconstructions(items, decoded, labels, sheet)
                for line in fit_lines(fit, job.config, sheet):
                    console.print(line, soft_wrap=True)
        except UserError as error:  # the corpus is whole all the same
            console.print(f"how well the tokenizers fit is not known: {error}", soft_wrap=True)


if __name__ == "__main__":
    listen(signals=())  # SIGTERM ends it at once: parts are written aside
    main()
