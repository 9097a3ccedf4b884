"""The same as validate.py for `python -m momafuse.train_tokenizer`: what one field of its config cannot know of another."""

from __future__ import annotations

import re

from momafuse.config.broken import fail, signs
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.config.validate import NAME, check_run_root, folder, signs_of_run, validate_run
from momafuse.tokens.config import BPEConfig
from momafuse.vision.config import VQConfig
from momafuse.vq.config import GROUPS


def validate_tokenizer(config: TokenizerTraining) -> None:
    """Raises UserError for the first rule that `config` breaks."""
    signs_of_run(config)
    how, t = config.tokenizer, config.trainer
    if not re.fullmatch(NAME, how.name):
        fail("tokenizer.name", how.name, "must be fit for a file: 1 to 200 characters, no slash, not starting with . or -")
    validate_run(config)
    signs({}, {"optim.muon_lr": config.optim.muon_lr, "optim.weight_decay": config.optim.weight_decay})
    if isinstance(how, BPEConfig):
        return
    signs({f"data.sources.{name}.weight": source.weight for name, source in config.data.sources.items()}, {})
    if not 0 <= how.plain_steps < t.max_steps:
        fail("trainer.max_steps", t.max_steps, f"must be more than tokenizer.plain_steps={how.plain_steps}, which is 0 or more")
    q = how.quantizer
    shares = {"weight_ema": how.weight_ema, "quantizer.code_decay": q.code_decay, "quantizer.restart_until": q.restart_until}
    if isinstance(how, VQConfig):
        shares |= {"crop_share": how.crop_share, "colour_share": how.colour_share}
        _pictures(how)
    for key, value in shares.items():
        if not 0 <= value <= 1:
            fail(f"tokenizer.{key}", value, "must lie between 0 and 1")


def _pictures(how: VQConfig) -> None:
    side, d = how.architecture.image_size, how.discriminator
    if side < 1:
        fail("tokenizer.architecture.image_size", side, "must be at least 1")
    if not 0 <= how.max_shift < side:
        fail("tokenizer.max_shift", how.max_shift, f"must be at least 0 and below the {side} pixels of a picture")
    if d is None:
        return
    numbers = {"start": d.start, "lr": d.lr, "layers": d.layers, "weight": d.weight, "channels": d.channels}
    signs({f"tokenizer.discriminator.{key}": value for key, value in numbers.items()}, {})
    if d.channels % GROUPS:
        fail("tokenizer.discriminator.channels", d.channels, f"must be a multiple of {GROUPS}, the groups of its norms")
    if side >> d.layers < 3:
        fits = max(n for n in range(side) if side >> n >= 3)
        fail("tokenizer.discriminator.layers", d.layers, f"leaves nothing of {side} pixels to judge; at most {fits}")


def check_tokenizer_folders(config: TokenizerTraining) -> None:
    """Raises UserError where `run.root` or `out` cannot be made; makes nothing."""
    check_run_root(config)
    folder("out", config.out)
