"""A page's command as it is followed here: placeholders filled in, sizes shrunk, and the few that are excused, with reasons."""

from __future__ import annotations

import re

from tests.packaging.pages import Command

# What a page leaves to its reader, and what stands for it here.
MEANT = {
    r"data\.path=\.\.\.": ["data.path=PICTURES"],
    r"data=\.\.\.": ["data=starter"],
    r"run=\.\.\.": ["run=runs/demo-aux_routers"],
    r"\+experiment=NAME": ["+experiment=moma_4t4i"],
    r"\.\.\.": """+experiment=moma_4t4i data=captioned_folder data.sources.pictures.path=PICTURES data.sources.texts.path=TEXTS
data.sources.articles.reader=text_files data.sources.articles.path=MORE""".split(),
}

SHORT = ["trainer.max_steps=2", "trainer.eval_sequences=4", "trainer.dry_step=false", "logger.wandb=disabled"]
MICRO = ["size=micro", "trainer.global_batch=4", *SHORT]
SMALL_PICTURES = """trainer.max_steps=3 tokenizer.plain_steps=1 trainer.global_batch=4 logger.wandb=disabled
tokenizer.architecture.codes=64 tokenizer.architecture.encoder_channels=[8,8] tokenizer.architecture.encoder_blocks=[0,1]
tokenizer.architecture.decoder_blocks=[1,0,0]""".split()
SMALL_SPEECH = """trainer.max_steps=3 tokenizer.plain_steps=1 trainer.global_batch=4 logger.wandb=disabled
tokenizer.architecture.codes=16 tokenizer.architecture.frame_channels=8 tokenizer.architecture.code_channels=8
tokenizer.architecture.code_dim=4 tokenizer.excerpt=20""".split()

MANY = ("clip_art", "fluent", "twemoji", "gimp", "sklearn")  # sources that have others like them; each gets a sheet

# Words that join a command's own, or replace those of the same key: of the first pattern that is found in it.
SHRUNK = {
    r"experiment=aux_routers": ["trainer.global_batch=4", *SHORT],
    r"momafuse\.train_tokenizer .*_bpe\b": ["tokenizer.pieces=600"],
    r"momafuse\.train_tokenizer .*=speech_vq": SMALL_SPEECH,
    r"momafuse\.train_tokenizer .*_vq_v2": [*SMALL_PICTURES, "tokenizer.architecture.decoder_channels=[64,8,8]"],
    r"momafuse\.train_tokenizer": [*SMALL_PICTURES, "tokenizer.architecture.decoder_channels=[8,8,8]"],
    r"momafuse\.train .*size=chameleon-7b": SHORT,  # its size is that of the weights, which are small
    r"momafuse\.train .*from: 0\.8": [*MICRO, "trainer.max_steps=5"],  # one is left to the stage
    r"torchrun .*trainer=cpu": ["size=micro", *SHORT],
    r"momafuse\.train": MICRO,
    r"momafuse\.launch": ["launch.dry=true"],
    r"momafuse\.sweep .*slurm=true": ["sweep.dry=true"],
    r"momafuse\.sweep .*sweep=rates": ["sweep.only=[slow]", "sweep.seeds=[0]", *MICRO],
    r"momafuse\.sweep": ["sweep.only=[dense]", "sweep.seeds=[0]", *MICRO],
    r"momafuse\.describe tokenizer": [],
    r"momafuse\.describe": ["size=micro", "trainer.global_batch=2048"],
    r"momafuse\.prepare data=collection": ["prepare.workers=1", *(f"~data.sources.{name}" for name in MANY)],
    r"momafuse\.prepare": ["prepare.workers=1"],
    r"momafuse\.evaluate": ["sequences=4", "logger.wandb=disabled"],
    r"momafuse\.generate": ["max_tokens=80", "samples=1"],
    r"momafuse\.compare": ["logger.wandb=disabled"],
    r"scripts/plan_scaling\.py": ["size=micro", "trainer.global_batch=2048"],
}

# Commands that are only composed, or whose script is only looked for.
EXCUSED = {
    r"scripts/fetch_corpus\.py": "downloads packages; tests/scripts runs it on packages made there",
    r"data=cc3m": "downloads; tests/data reads tars of that form",
    r"momafuse\.lm_eval": "not installed here, and downloads; tests/exchange and tests/evaluation run it where it is",
    r": make ": "these very tests, and what CI runs before them",
    r"sbatch |scripts/local_slurm\.sh": "wants Slurm's daemons; tests/launch starts them and submits that script",
}
EXCUSED_AT_MOST = 17


def excuse(command: Command) -> str | None:
    return next((reason for pattern, reason in EXCUSED.items() if re.search(pattern, str(command))), None)


def asked(command: Command) -> list[str]:
    """The words for the program, placeholders filled in."""
    words = []
    for word in command.rest:
        words += next((filled for pattern, filled in MEANT.items() if re.fullmatch(pattern, word)), [word])
    return words


def shrink(command: Command) -> list[str]:
    words = asked(command)
    if "--help" in words or "--cfg" in words:
        return words
    small = next((small for pattern, small in SHRUNK.items() if re.search(pattern, str(command))), [])
    keys = {word.partition("=")[0] for word in small}
    return [*(word for word in words if word.partition("=")[0] not in keys), *small]
