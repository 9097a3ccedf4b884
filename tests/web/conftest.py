"""Untrained runs in memory: what a page shows of them is as good a test as of trained ones, and takes no training."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cache

import pytest

from momafuse.config.compose import compose
from momafuse.data.codecs import load_codecs, vocabulary_of
from momafuse.evaluation.language_model import LanguageModel
from momafuse.interface import Model
from momafuse.tokens.text import TextTokenizer
from tests.members import member
from tests.models.loops import shaken
from tests.models.zoo import CAUSAL

Untrained = Callable[[str], Model]


@cache
def untrained(experiment: str) -> Model:
    """A run of this experiment at size micro with noise on its weights, auxiliary routers where it has routers."""
    config = compose([f"+experiment={experiment}", "size=micro"]).config
    text, codecs = TextTokenizer.load(config.tokenizer["text"]), load_codecs(config.tokenizer)
    vocabulary = vocabulary_of(text, codecs)
    model = shaken(member(experiment, vocabulary=vocabulary.size, auxiliary=experiment not in CAUSAL))
    return Model(LanguageModel(model, text, codecs, vocabulary, config.data.sequence_length))


@pytest.fixture(name="untrained", scope="session")
def _untrained() -> Untrained:
    return untrained


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
