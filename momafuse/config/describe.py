"""What `python -m momafuse.describe` reads: all that train reads, so that it describes what train would run, on how many GPUs
of which kind, and a format; or all that train_tokenizer reads, where the command line names a tokenizer that is to be trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from momafuse.config.compose import group_options, is_trained
from momafuse.config.overrides import split_commas
from momafuse.config.schema import Config
from momafuse.config.tokenizers import TokenizerTraining


@dataclass(frozen=True)
class Nodes:
    nodes: int | None  # None: no plan for many GPUs
    gpus_per_node: int


@dataclass(frozen=True)
class Hardware:
    gpu: str | None  # a name of reports/gpus.py; None: no seconds
    efficiency: float  # share of its peak that products reach where nothing is waited for


@dataclass(frozen=True)
class DescribeConfig(Config):
    writes_run: ClassVar[bool] = False

    format: Literal["table", "json"]
    launch: Nodes
    describe: Hardware


@dataclass(frozen=True)
class DescribeTokenizer(TokenizerTraining):
    writes_run: ClassVar[bool] = False

    format: Literal["table", "json"]


def described(words: Sequence[str], user_dir: Path | None) -> tuple[str, type[DescribeConfig | DescribeTokenizer]]:
    """The primary config and the schema that the words of a command line are meant for.

    A tokenizer's, where all that they choose is one that is to be trained; what else there is beside one, composing refuses.
    """
    groups = group_options(user_dir)
    chosen = {key: file for key, _, file in (word.lstrip("+~").partition("=") for word in words) if key in groups}
    files = split_commas(chosen.get("tokenizer", ""))
    alone = set(chosen) == {"tokenizer"} and set(files) <= set(groups["tokenizer"])
    if alone and all(is_trained(file, user_dir) for file in files):
        return "describe_tokenizer", DescribeTokenizer
    return "describe", DescribeConfig
