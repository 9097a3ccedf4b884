"""`python -m momafuse.train_tokenizer tokenizer=starter_vq`: trains a tokenizer of pictures, of speech, or of text.

Writes OUT/NAME.safetensors, OUT/NAME.json (the figures on held-out items) and OUT/NAME.png (a sheet of reconstructions), of
speech OUT/NAME_original.wav and OUT/NAME_decoded.wav as well; of a BPE, OUT/NAME.model. Pictures that cannot be used are named
in OUT/NAME_rejects.txt.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.data.starter_bpe import train_starter_bpe
from momafuse.speech.config import SpeechVQConfig
from momafuse.tokenizers.pictures import train_image_tokenizer
from momafuse.tokenizers.speech import train_speech_tokenizer
from momafuse.vision.config import VQConfig

HELP = "Train a tokenizer: of pictures or text on the embedded starter pack, of pictures or speech on folders of yours."


@entry_point("train_tokenizer", help=HELP, schema=TokenizerTraining)
def main(job: Job[TokenizerTraining]) -> None:
    tokenizer, out, console = job.config.tokenizer, Path(job.config.out), Console()
    if isinstance(tokenizer, VQConfig):
        train_image_tokenizer(tokenizer, out, console)
    elif isinstance(tokenizer, SpeechVQConfig):
        train_speech_tokenizer(tokenizer, out, console)
    else:
        trained = train_starter_bpe(tokenizer, out)
        console.print(f"{trained.name}  {trained.pieces} pieces  sha256 {trained.fingerprint}", soft_wrap=True)


if __name__ == "__main__":
    main()
