"""A run whose image tokenizer only encodes: prepare, train with its page, generate and the demo do without its decoder."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import momafuse
from momafuse.errors import UserError
from momafuse.generate import main as generate
from momafuse.generation.sampling import Sampling
from momafuse.interface import Model
from momafuse.prepare import main as prepare
from momafuse.train import main as train
from momafuse.vision.chameleon import shapes_of, write
from momafuse.vision.config import VQGANArchitecture
from momafuse.web.answer import answer, prompt_of
from momafuse.web.page import page
from tests.data.corpora import write_pictures, write_texts

ARCHITECTURE = VQGANArchitecture(16, 32, 4, base=32, multipliers=(1, 1, 1, 1), blocks=1, attention=(), z=4)
BATCH = ["trainer.micro_batch=4", "trainer.global_batch=4", "trainer.max_steps=2", "trainer.eval_sequences=4"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """The words of a command on pictures and text, and what preparing their corpus said."""
    root = tmp_path_factory.mktemp("blind")
    drawn = torch.Generator().manual_seed(0)
    tensors = {
        name: 0.2 * torch.randn(shape, generator=drawn) for name, shape in shapes_of(ARCHITECTURE, decoder=False).items()
    }
    write(root / "blind.safetensors", ARCHITECTURE, tensors.__getitem__, decoder=False)
    write_pictures(root / "pictures", 300)
    write_texts(root / "texts.jsonl", 300)

    def source(reader: str, path: str) -> str:
        return f"{{reader: {reader}, path: {root / path}, weight: 1.0, variants: 1}}"

    words = [
        "size=micro", f"tokenizer.image={root / 'blind.safetensors'}",
        f"+data.sources.pictures={source('captioned_folder', 'pictures')}",
        f"+data.sources.texts={source('text_files', 'texts.jsonl')}",
        "~data.sources.starter_pictures", "~data.sources.starter_glosses",
        f"data.path={root / 'corpus'}", f"run.root={root / 'runs'}",
        "data.sequence_length=64", "data.image_share=0.0625", "logger.wandb=disabled", *BATCH,
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()) as out:
        prepare([*words, "show=sample"])
    return words, out.getvalue()


@pytest.fixture(scope="module")
def words(prepared: tuple[list[str], str]) -> list[str]:
    return prepared[0]


def root_of(words: list[str]) -> Path:
    return next(Path(word.partition("=")[2]) for word in words if word.startswith("run.root=")).parent


@pytest.fixture(scope="module")
def folder(words: list[str]) -> Path:
    """A run of two steps, without routers."""
    train(["+experiment=mot", "run.name=blind", *words])
    return root_of(words) / "runs" / "blind"


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return momafuse.load(folder, "cpu")


def test_prepare_says_that_the_fit_is_not_known(prepared: tuple[list[str], str]) -> None:
    words, out = prepared
    assert re.search(r"tokenizer\.image=\S+blind\.safetensors has no decoder: how much it keeps cannot be told", out)
    assert "dB" not in out
    corpus = root_of(words) / "corpus"
    assert not list(corpus.glob("fit_*.png"))
    shown = (corpus / "sample.html").read_text()
    assert "image, 4 codes (its tokenizer has no decoder)" in shown
    assert "<img" not in shown


def test_a_run_ends_with_its_page_and_texts_for_pictures(folder: Path, words: list[str]) -> None:
    assert json.loads((folder / "report.json").read_text())["steps"] == 2
    assert not list((folder / "samples").iterdir())
    shown = (folder / "index.html").read_text()
    assert shown.count("image: its tokenizer has no decoder") > 1
    assert "What the tokenizers keep" not in shown


def test_routing_is_drawn_over_white(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    train(["+experiment=moma_4t4i", "run.name=routed", *words])
    assert "no sheet of what is left of image: tokenizer.image has no decoder" in capsys.readouterr().out
    assert (root_of(words) / "runs" / "routed" / "plots" / "routing.png").stat().st_size > 10_000


@pytest.mark.parametrize("make", ["image", "mixed"])
def test_pictures_are_refused_in_one_line_and_nothing_is_written(
    folder: Path, make: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        generate([f"run={folder}", "prompt=a", f"make={make}", f"out={tmp_path / 'out'}"])
    assert caught.value.code == 2
    said = capsys.readouterr().err.strip()
    assert re.search(rf"make={make}: this run's tokenizer of image has no decoder.*; make=text, or import again .*=FILE$", said)
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_texts_are_made_of_texts_and_of_pictures(folder: Path, model: Model, words: list[str], tmp_path: Path) -> None:
    picture = next((root_of(words) / "pictures").rglob("*.png"))
    generate([f"run={folder}", f"prompt=<image:{picture}> what?", "make=text", "max_tokens=5", f"out={tmp_path}"])
    assert (tmp_path / "generated.jsonl").read_text().count("\n") == 1
    assert np.isfinite(model.score(f"<image:{picture}>", " a red apple"))
    assert model.score("a red apple", f"<image:{picture}>") < 0
    with pytest.raises(UserError, match="has no decoder"):
        model.decode_image(model.encode_image(picture))


def test_the_page_of_the_demo_shows_cells_without_the_picture(model: Model, words: list[str]) -> None:
    picture = next((root_of(words) / "pictures").rglob("*.png")).read_bytes()
    found = answer(model, prompt_of(model, "what?", {"image": picture}), "text", Sampling(), 5)
    assert found.files == {}
    shown = page(found, 0, model.vocabulary, model.lm.tokenizer)
    assert "image, 4 codes<" in shown


def test_the_demo_offers_what_can_be_made(model: Model) -> None:
    pytest.importorskip("gradio")
    from momafuse.web.app import blocks

    components = {c["props"].get("label"): c for c in blocks(model, "runs/x").get_config_file()["components"]}
    assert [value for _, value in components["What to make"]["props"]["choices"]] == ["text"]
    assert components["What to make"]["props"]["value"] == "text"
    assert components["Drop image"]["type"] == "file"
