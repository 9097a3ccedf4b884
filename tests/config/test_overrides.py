"""Overrides: text stays text through Hydra's grammar, commas split where a reader would split them, keys are known."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from momafuse.config.compose import compose_jobs
from momafuse.config.generate import GenerateConfig
from momafuse.config.overrides import Override, for_hydra, parse, quote, split_commas, sweep
from momafuse.config.schema import Config
from momafuse.errors import UserError

GROUPS = {"size": ["nano", "micro"], "experiment": ["dense"], "model": ["moma"]}


def word(text: str) -> Override:
    return parse(text, Config, GROUPS)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_quoted_text_is_read_as_it_is(text: str) -> None:
    assert OverridesParser.create().parse_override(f"run.name={quote(text)}").value() == text


@pytest.mark.parametrize("text", ["2024_11", "1e3", "true", "a b", "it's", 'say "hi"', "a=b", "x,y", "{a", "\\", "\\'"])
def test_text_keys_take_everything_after_the_equals_sign(text: str) -> None:
    (made,) = for_hydra([word(f"run.name={text}")], Config)
    assert OverridesParser.create().parse_override(made).value() == text


def test_quotes_of_the_user_and_null_stay() -> None:
    assert for_hydra([word("run.name='a b'")], Config) == ["++run.name='a b'"]
    assert for_hydra([word("run.name=null")], Config) == ["++run.name=null"]
    assert for_hydra([word("run.root=null")], Config) == ["++run.root='null'"]  # a folder may be called so


def test_lists_of_text_hold_text() -> None:
    assert for_hydra([word("logger.tags=[2024_11, 'a,b', c]")], Config) == ["++logger.tags=['2024_11','a,b','c']"]


def test_numbers_and_choices_stay_as_they_are() -> None:
    words = ["optim.lr=1e-4", "data.image_share=experts", "data.image_share=0.5", "model.attention.document_mask=false"]
    assert for_hydra([word(w) for w in words], Config) == [f"++{w}" for w in words]
    assert for_hydra([word("+experiment=dense"), word("~model.experts.all")], Config) == [
        "+experiment=dense",
        "~model.experts.all",
    ]


def test_a_dict_of_experts_replaces() -> None:
    made = for_hydra([word("model.experts={text: 2, image: 1}")], Config)
    assert made == ["++model.experts=null", "++model.experts={text: 2, image: 1}"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("{a:1,b:2},{a:[1,2]}", ["{a:1,b:2}", "{a:[1,2]}"]),
        ("it\\'s,b", ["it\\'s,b"]),
        ("", [""]),
    ],
)
def test_commas_split_outside_of_quotes_and_brackets(text: str, parts: list[str]) -> None:
    assert split_commas(text) == parts


def test_a_sweep_is_the_product_in_the_order_typed() -> None:
    jobs = sweep([word("size=nano,micro"), word("run.seed=range(0,2)"), word("run.name='a,b'")], Config)
    assert [[str(o) for o in job] for job in jobs] == [
        ["size=nano", "run.seed=0", "run.name='a,b'"],
        ["size=nano", "run.seed=1", "run.name='a,b'"],
        ["size=micro", "run.seed=0", "run.name='a,b'"],
        ["size=micro", "run.seed=1", "run.name='a,b'"],
    ]
    assert [str(job[0]) for job in sweep([word("run.name=2024_11,1e3")], Config)] == [
        "run.name=2024_11",
        "run.name=1e3",
    ]


@pytest.mark.parametrize("text", ["run.seed=range(", "optim.lr=interval(0,1)"])
def test_a_sweep_without_values_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match=text.split("=")[0]):
        sweep([word(text)], Config)


@pytest.mark.parametrize("text", ["foo", "=3", "", "a b=3", "+experiment"])
def test_what_is_no_override_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="KEY=VALUE"):
        word(text)


@given(st.text(st.sampled_from("\\${}'\" a,=[]:\n#\u00e9"), max_size=12))
def test_a_prompt_is_taken_as_it_is_typed(text: str) -> None:
    (job,) = compose_jobs(["run=x", f"prompt={text}"], "generate", GenerateConfig)
    assert job.config.prompt == text
