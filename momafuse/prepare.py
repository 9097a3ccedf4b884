"""`python -m momafuse.prepare data=starter`: makes the tokenised corpus of a config, or says that it is complete."""

from __future__ import annotations

import sys

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point
from momafuse.preemption import listen


@entry_point(
    "prepare",
    help="Tokenise pictures and text into a corpus that train reads (train does it by itself on first use). "
    "Killed, the same command goes on where it stopped.",
)
def main(job: Job) -> None:
    from rich.console import Console

    from momafuse.data.fit import fits  # after composing: a misspelt key should not wait
    from momafuse.data.prepare import corpus_path, prepare_corpus
    from momafuse.reports.corpus import corpus_tree, fit_lines
    from momafuse.reports.plots import plot_reconstructions

    path = corpus_path(job.config)
    complete = path.exists()
    corpus = prepare_corpus(job.config, path)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"{path} {'is complete' if complete else 'is made'}", soft_wrap=True)
    console.print(corpus_tree(corpus.manifest))
    if not list(path.glob("fit_*.png")):  # made by train, or left in the midst of it
        for fit in fits(job.config):
            sheet = path / f"fit_{fit.source}_{fit.modality}.png"
            labels, items, decoded = zip(*fit.worst, strict=True)
            plot_reconstructions(items, decoded, labels, sheet)
            for line in fit_lines(fit, job.config, sheet):
                console.print(line, soft_wrap=True)


if __name__ == "__main__":
    listen(signals=())  # SIGTERM ends it at once: parts are written aside
    main()
