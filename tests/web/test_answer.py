"""What was given and made, in rows; what a person types stays text."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from momafuse.errors import UserError
from momafuse.generation.experts import experts_of_rows
from momafuse.generation.sampling import Sampling
from momafuse.interface import Model
from momafuse.web.answer import Run, answer, prompt_of, runs_of
from tests.web.conftest import Untrained


def drawing() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def model(untrained: Untrained) -> Model:
    return untrained("moma_4t4i")


def test_a_picture_stands_before_the_text_or_where_it_says(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(drawing())
    dropped = {"image": drawing()}
    assert prompt_of(model, "a bird", {})[1] == model.tokens("a bird")
    assert prompt_of(model, "", {})[1] == [model.vocabulary.specials.bos]
    assert prompt_of(model, "a bird", dropped)[1] == model.tokens(f"<image:{file}>a bird")
    assert prompt_of(model, "a <image> bird", dropped)[1] == model.tokens(f"a <image:{file}> bird")
    assert prompt_of(model, "", dropped)[1] == model.tokens(f"<image:{file}>")


def test_no_path_in_a_prompt_is_read(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(drawing())
    typed = f"<image:{file}> what is this?"
    assert model.vocabulary.modality("image").begin not in prompt_of(model, typed, {})[1]
    first = model.vocabulary.modality("text").first
    assert model.lm.tokenizer.decode(i - first for i in prompt_of(model, typed, {})[1][1:]) == typed


@pytest.mark.parametrize(
    ("text", "dropped", "line"),
    [
        ("a <image> bird", {}, "prompt: <image> says where the image stands: drop one and write it once, or leave it out"),
        ("<image> <image>", {"image": drawing()}, "prompt: <image> says where the image stands: drop one and write it once"),
        ("", {"image": b"no picture"}, "image: no picture format; drop another file"),
    ],
)
def test_mistakes_are_one_line(model: Model, text: str, dropped: dict[str, bytes], line: str) -> None:
    with pytest.raises(UserError, match=line):
        prompt_of(model, text, dropped)


@pytest.mark.parametrize("experiment", ["moma_4t4i", "mod_moma_4t4i", "dense"])
def test_an_answer_is_what_the_run_makes(untrained: Untrained, experiment: str) -> None:
    model = untrained(experiment)
    prompt = prompt_of(model, "a bird ", {"image": drawing()})
    sampling = Sampling(seed=3, guidance=2.0)
    found = answer(model, prompt, "image", sampling)
    assert found.ids[: found.given] == prompt[1]
    (made,) = model.generate("a bird ", "image", sampling=replace(sampling, seed=3))  # the draws of the text, another prompt
    assert len(found.ids) - found.given == len(made.ids) == 66
    runs = list(runs_of(found.ids, found.given, model.vocabulary))
    assert [(r.modality, r.start < found.given) for r in runs] == [
        (0, True),
        (1, True),
        (0, True),
        (0, False),
        (1, False),
        (0, False),
    ]
    assert [found.files[r.start][0] for r in runs if r.modality] == ["png", "png"]
    assert len(found.files) == 2
    expected = experts_of_rows(model.lm.model, model.vocabulary, found.ids)
    assert [one.expert.tolist() for one in found.layers] == [one.expert.tolist() for one in expected]


def test_a_prompt_of_segments_draws_as_its_text_does(model: Model) -> None:
    (made,) = model.generate("a bird", "text", most=12)
    found = answer(model, prompt_of(model, "a bird", {}), "text", Sampling(), 12)
    assert found.ids[found.given :] == made.ids


def test_a_cut_item_has_no_file(model: Model) -> None:
    m = model.vocabulary.modality("image")
    ids = [model.vocabulary.specials.bos, m.begin, *range(m.first, m.first + 5)]
    assert list(runs_of(ids, len(ids), model.vocabulary)) == [Run(0, 0, 2), Run(1, 2, 7)]
