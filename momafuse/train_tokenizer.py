"""`python -m momafuse.train_tokenizer tokenizer=starter_vq`: trains a tokenizer of pictures, of speech, or of text.

Writes OUT/NAME.safetensors, OUT/NAME.json (the figures on held-out items) and OUT/NAME.png (a sheet of reconstructions), of
speech OUT/NAME_original.wav and OUT/NAME_decoded.wav as well; of a BPE, OUT/NAME.model. Pictures that cannot be used are named
in OUT/NAME_rejects.txt. The run itself, its metrics and checkpoints, is in run.root/run.name, and goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.config.validate_tokenizer import check_tokenizer_folders
from momafuse.preemption import listen
from momafuse.tokens.config import BPEConfig

HELP = """Train a tokenizer: of the pictures or the speech of any data=, or of its texts.
The same command goes on where it stopped."""


@entry_point("train_tokenizer", help=HELP, schema=TokenizerTraining, check=check_tokenizer_folders)
def main(job: Job[TokenizerTraining]) -> None:
    if isinstance(job.config.tokenizer, BPEConfig):
        from momafuse.data.bpe import train_text_tokenizer

        console = Console(stderr=True, highlight=False)
        sources = job.config.data.sources
        trained = train_text_tokenizer(job.config.tokenizer, sources, Path(job.config.out), console.print)
        Console().print(f"{trained.name}  {trained.pieces} pieces  sha256 {trained.fingerprint}", soft_wrap=True)
        return
    from momafuse.tokenizers.runs import train  # after composing: a misspelt key should not wait for torch

    train(job)


if __name__ == "__main__":
    listen()
    main()
