"""`python -m momafuse.prepare data=starter`: makes the tokenised corpus of a config, or says that it is complete."""

from __future__ import annotations

import sys

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point


@entry_point(
    "prepare",
    help="Tokenise pictures and text into a corpus that train reads (train does it by itself on first use). "
    "Killed, the same command goes on where it stopped.",
)
def main(job: Job) -> None:
    from rich.console import Console

    from momafuse.data.prepare import corpus_path, prepare_corpus  # after composing: a misspelt key should not wait
    from momafuse.reports.corpus import corpus_tree

    path = corpus_path(job.config)
    complete = path.exists()
    corpus = prepare_corpus(job.config, path)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"{path} {'is complete' if complete else 'is made'}", soft_wrap=True)
    console.print(corpus_tree(corpus.manifest))


if __name__ == "__main__":
    main()
