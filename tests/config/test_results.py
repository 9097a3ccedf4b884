"""Run names, and which keys make two runs different."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momafuse.config.compose import compose
from momafuse.config.convert import known_keys
from momafuse.config.describe import DescribeConfig
from momafuse.config.launch import LaunchConfig
from momafuse.config.prepare import PrepareConfig
from momafuse.config.results import MAX_NAME, RESULT_NEUTRAL, changes_results, config_differences, sanitise
from momafuse.config.tokenizers import TokenizerTraining


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("+experiment=moma_4t4i", "moma_4t4i"),
        ("", "moma"),
        ("model=dense", "dense"),
        ("+experiment=moma_4t4i size=90m", "moma_4t4i-size=90m"),
        ("+experiment=moma_4t4i run.seed=1", "moma_4t4i-run.seed=1"),
        ("run.seed=1 +experiment=moma_4t4i size=90m", "moma_4t4i-run.seed=1-size=90m"),
        ("+experiment=dense run.seed=1 run.seed=2", "dense-run.seed=2"),
        ("+experiment=dense +debug=one_step", "dense-debug=one_step"),
        ("+experiment=dense model=moma", "dense-model=moma"),
        ("data.path=/corpora/my\\ own", "moma-data.path=_corpora_my_own"),
        ("model.experts={text:2,image:1}", "moma-model.experts=text2,image1"),
        ("~data.sources.starter_glosses", "moma-no_data.sources.starter_glosses"),
        ("run.name=mine size=90m", "mine"),
        (
            "+experiment=dense run.root=r trainer.max_steps=5 trainer.max_tokens=99999 trainer=cpu trainer.device=cpu "
            "trainer.eval_every=3 trainer.eval_sequences=4 trainer.log_every=2 trainer.backend=bmm checkpoint.every=7 "
            "logger.wandb=disabled logger.tags=[a] logger=wandb resume=none",
            "dense",
        ),
        ("trainer.global_batch=32 trainer.precision=fp32", "moma-trainer.global_batch=32-trainer.precision=fp32"),
    ],
)
def test_names(words: str, name: str) -> None:
    typed = [w.replace("\0", " ") for w in words.replace("\\ ", "\0").split()]
    assert compose(typed).config.run.name == name


@given(st.text(max_size=400))
def test_a_sanitised_name_is_fit_for_a_folder(name: str) -> None:
    made = sanitise(name)
    assert len(made.encode()) <= MAX_NAME
    assert "/" not in made
    assert not made.startswith(".")


def test_long_names_stay_apart() -> None:
    a, b = (sanitise("x" * 300 + end) for end in "ab")
    assert a != b


def test_every_neutral_pattern_names_a_key() -> None:
    keys = [key for schema in (LaunchConfig, DescribeConfig, PrepareConfig, TokenizerTraining) for key in known_keys(schema)]
    for pattern in RESULT_NEUTRAL:
        if pattern != "hydra.*":
            assert any(not changes_results(k) for k in keys if k.startswith(pattern.rstrip("*")))
    assert changes_results("run.seed")
    assert changes_results("data.path")
    assert changes_results("trainer.precision")


def test_differences_name_the_keys_that_change_results() -> None:
    a = compose(["+experiment=moma_4t4i"]).config
    assert config_differences(a, a) == []
    longer = compose(["+experiment=moma_4t4i", "trainer.max_steps=9", "resume=none"]).config
    assert config_differences(a, longer) == []
    words = ["run.seed=1", "model.dim=128", "data.sources.starter_glosses.weight=2"]
    b = compose(["+experiment=moma_4t4i", *words]).config
    assert config_differences(a, b) == ["run.seed", "model.dim", "data.sources.starter_glosses.weight"]
    c = replace(a, model=replace(a.model, experts={"all": 1}))
    assert config_differences(a, c) == ["model.experts.text", "model.experts.image", "model.experts.all"]
