"""What prompts give: the same alone and together, with and without kept keys and values, in the form that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import momafuse
from momafuse.errors import UserError
from momafuse.generation.generator import Part
from momafuse.generation.grammar import Grammar
from momafuse.generation.sampling import Sampling, choose, generator, guided
from momafuse.interface import Model
from tests.training.conftest import Train
from tests.training.test_auxiliary import stage

PROMPTS = ["a red apple:", "", 'two cats asleep, "on" a lawn = {x: 1}\t\u00e9 \U0001f600', "a b c d e f g h i j k l m"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a cat, 2.png"
    Image.new("RGB", (40, 30), (200, 30, 60)).save(path)
    return path


@pytest.mark.parametrize("make", ["text", "image", "mixed"])
def test_a_batch_gives_each_what_it_gets_alone(model: Model, picture: Path, make: str) -> None:
    prompts = [*PROMPTS, f"<image:{picture}> what is this?"]
    together = model.generate(prompts, make, samples=2, most=70)
    alone = [made for prompt in prompts for made in model.generate(prompt, make, samples=2, most=70)]
    pieces = model.generate(prompts, make, samples=2, most=70, batch=3)
    assert [m.ids for m in together] == [m.ids for m in alone] == [m.ids for m in pieces]
    assert [m.prompt for m in together] == [p for p in prompts for _ in range(2)]
    assert together[0].ids != together[1].ids


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("make", ["image", "mixed"])
def test_ids_are_those_of_the_whole_forward(model: Model, make: str, guidance: float) -> None:
    sampling = Sampling(0.9, top_k=50, guidance=guidance, seed=3)
    (made,) = model.generate("a red apple:", make, sampling=sampling, most=68)
    v, grammar, draws = model.vocabulary, Grammar(model.vocabulary, make), generator(3, "a red apple:", 0)
    given = model.tokens("a red apple:")
    state, ids = grammar.start(given), []
    while len(ids) < 68 and not state.ended:
        logits = model.logits([*given, *ids])[-1:]
        if guidance != 1 and state.modality:
            logits = guided(logits, model.logits([v.specials.bos, *ids])[-1:], guidance)
        ids += choose(logits, grammar.allowed(state, 68 - len(ids))[None], sampling, [draws]).tolist()
        state = grammar.next(state, ids[-1])
    assert made.ids == ids


def test_one_picture_and_its_codes(model: Model) -> None:
    made = model.generate(["a dog:", "a cat:"], "image")
    image = model.vocabulary.modality("image")
    for one in made:
        assert len(one.ids) == image.block + 2
        assert (one.ids[0], one.ids[-1]) == image.frame
        (part,) = one.parts
        codes = np.array(one.ids[1:-1]) - image.first
        assert torch.equal(part.value, model.decode("image", codes))
        assert model.decode_image(codes).size == (64, 64)


def test_parts_of_ids(model: Model) -> None:
    v = model.vocabulary
    image, text = v.modality("image"), v.modality("text")
    words = [text.first + int(i) for i in model.lm.tokenizer.encode(["a red apple"])[0]]
    codes = list(range(image.first, image.first + image.block))

    def parts(given: list[int], ids: list[int]) -> list[tuple[str, object]]:
        found: list[Part] = model.generator.parts(given, ids)
        return [(p.modality, p.value if p.modality == "text" else "picture") for p in found]

    whole = [image.begin, *codes, image.end]
    assert parts([1], [*words, *whole, *words, 2]) == [("text", "a red apple"), ("image", "picture"), ("text", "a red apple")]
    assert parts([1, *words], words) == [("text", "a red apple")]
    assert parts([1, *whole], words) == [("text", "a red apple")]
    assert parts([1, *words, image.begin, *codes[:5]], [*codes[5:], image.end]) == [("image", "picture")]
    assert parts([1, *words], [*words, image.begin, *codes[:5]]) == [("text", "a red apple")]
    assert parts([1, *words], [2]) == []


def test_scores_add_up(model: Model, picture: Path) -> None:
    prompt, said = f"<image:{picture}>", " a red thing"
    ids, more = model.tokens(prompt), model.tokens(said)[1:]
    rows = model.logits([*ids, *more]).double().log_softmax(-1)
    expected = sum(float(rows[len(ids) - 1 + n, i]) for n, i in enumerate(more))
    assert model.score(prompt, said) == pytest.approx(expected, abs=1e-3)
    assert model.score("a red thing", f"<image:{picture}>") < 0


def test_a_model_of_experts_wants_auxiliary_routers(run: Train, run_root: Path) -> None:
    moma = run("trainer.max_steps=2")
    with pytest.raises(UserError, match=r"has no auxiliary routers.*\+experiment=aux_routers model_from="):
        momafuse.load(moma)
    routers = stage(run_root, moma, "trainer.max_steps=2")
    model = momafuse.load(routers, "cpu")
    (made,) = model.generate("a red apple:", "image")
    assert len(made.ids) == 66


@pytest.mark.parametrize(
    ("prompt", "make", "message"),
    [
        (
            "<image:no_such.png>",
            "text",
            r"prompt=<image:no_such.png>: no_such.png: No such file or directory; name a",
        ),
        ("<speech:a.wav>", "text", r"prompt=<speech:a.wav>: this run knows no speech, only text, image"),
        ("word " * 400, "text", r"prompt 1 has 40\d tokens, and this run's sequences 256; shorten it"),
        ("word " * 200, "image", r"make=image: takes 66 tokens, and behind this prompt are \d\d; shorten it"),
        ("a", "video", r"make=video: this run makes text, image, mixed"),
    ],
)
def test_prompts_that_cannot_be_answered(model: Model, prompt: str, make: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.generate(prompt, make)


def test_a_file_that_is_no_picture(model: Model, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match=r"broken.png: .*; name a file of image"):
        model.generate(f"<image:{tmp_path / 'broken.png'}>", "text")


def test_angle_brackets_that_name_nothing_are_text(model: Model) -> None:
    for prompt in ("<b:c>", "a < b > c", "<image>", "<image:>"):
        ids = model.tokens(prompt)
        first = model.vocabulary.modality("text").first
        assert model.lm.tokenizer.decode([i - first for i in ids[1:]]) == prompt


def test_learned_modalities_by_name(model: Model) -> None:
    assert model.modalities == ("text", "image")
    with pytest.raises(UserError, match="speech: this run knows text, image"):
        model.encode("speech", b"")
