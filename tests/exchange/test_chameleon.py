"""Chameleons of transformers, every head's norms different, against the runs that they become, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, ChameleonForConditionalGeneration

from momafuse.export import main as export
from momafuse.generation.sampling import Sampling
from momafuse.import_ import main as import_
from momafuse.interface import Model
from momafuse.vision.augment import to_unit
from tests.exchange import foreign

STYLES = ["swin", "pre"]
PROMPT = "a red apple on a table"
PICTURES = foreign.PICTURES


@pytest.fixture(params=STYLES)
def there(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A folder and its model; 34B's style and 7B's, one with grouped keys, which the larger has."""
    swin = request.param == "swin"
    return tmp_path / "theirs", foreign.chameleon(tmp_path / "theirs", swin=swin, kv_heads=2 if swin else 4)


def imported(folder: Path, name: str = "run", *words: str) -> Path:
    root = folder.parent / "runs"
    import_([f"from={folder}", f"root={root}", f"name={name}", *words])
    return root / name


def exported(run: Path, name: str = "ours", *words: str) -> Path:
    to = run.parent.parent / name
    export([f"run={run}", f"to={to}", *words])
    return to


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: x for file in sorted(folder.glob("model*.safetensors")) for name, x in load_file(file).items()}


def mixed_ids(model: Model) -> list[int]:
    """A document with a picture in it, whose codes are all there are."""
    image = model.vocabulary.modality("image")
    return [*model.tokens(PROMPT), image.begin, *range(image.first, image.last + 1), image.end, *model.tokens(PROMPT)[1:]]


def test_logits_are_those_of_transformers(there: tuple[Path, Any]) -> None:
    folder, theirs = there
    model = Model.load(imported(folder), "cpu")
    ids = mixed_ids(model)
    with torch.inference_mode():
        wanted = theirs(torch.tensor([ids])).logits[0]
    found = model.logits(ids)
    kept = wanted > torch.finfo(wanted.dtype).min  # that class leaves image codes out
    image = model.vocabulary.modality("image")
    assert kept.sum(1).tolist() == [found.shape[1] - image.count] * len(ids)
    assert found.std() > 0.5
    torch.testing.assert_close(found[kept], wanted[kept], rtol=0, atol=1e-5)


def test_pictures_have_the_ids_that_transformers_gives_them(there: tuple[Path, Any]) -> None:
    folder, theirs = there
    model = Model.load(imported(folder), "cpu")
    codec, image = model.lm.codecs["image"], model.vocabulary.modality("image")
    ours = np.stack(codec.encode(list(PICTURES)))
    with torch.inference_mode():
        wanted = theirs.get_image_tokens(to_unit(PICTURES))
    assert len(np.unique(ours)) > 20  # of 64: else equality would say little
    np.testing.assert_array_equal(ours + image.first, wanted.numpy())


def test_out_again_every_tensor_is_as_it_was(there: tuple[Path, Any]) -> None:
    folder, theirs = there
    to = exported(imported(folder))
    before, after = weights(folder), weights(to)
    assert before.keys() == after.keys() == theirs.state_dict().keys()
    for name, x in before.items():
        assert x.dtype == after[name].dtype, name
        assert torch.equal(x, after[name]), name
    assert (to / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    ours, was = (json.loads((f / "config.json").read_text()) for f in (to, folder))
    for key in ("vocabulary_map", "swin_norm", "num_key_value_heads", "rope_parameters", "rms_norm_eps", "intermediate_size"):
        assert ours[key] == was[key], key


def test_in_again_every_tensor_is_as_it_was(there: tuple[Path, Any]) -> None:
    from momafuse.checkpoint import store
    from momafuse.checkpoint.tensors import StoredTensors

    first = imported(there[0])
    second = imported(exported(first), "again")
    a, b = (StoredTensors(store.find(run)) for run in (first, second))
    assert a.shapes() == b.shapes()
    assert a.dtypes() == b.dtypes()
    for path in a.shapes():
        assert torch.equal(a.weight(path), b.weight(path)), path
    for name in ("text.json", "image.safetensors"):
        assert (first / "tokenizers" / name).read_bytes() == (second / "tokenizers" / name).read_bytes()


def test_exported_it_is_the_same_model_in_transformers(there: tuple[Path, Any]) -> None:
    folder, theirs = there
    to = exported(imported(folder))
    again, report = ChameleonForConditionalGeneration.from_pretrained(to, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.tensor([mixed_ids(Model.load(folder.parent / "runs" / "run", "cpu"))])
    with torch.inference_mode():
        assert torch.equal(again.eval()(ids).logits, theirs(ids).logits)
        assert torch.equal(again.get_image_tokens(to_unit(PICTURES[:8])), theirs.get_image_tokens(to_unit(PICTURES[:8])))


def test_both_write_the_same_text(there: tuple[Path, Any]) -> None:
    folder, _ = there
    run = imported(folder)
    model, to = Model.load(run, "cpu"), exported(run)
    theirs, tokenizer = ChameleonForConditionalGeneration.from_pretrained(to).eval(), AutoTokenizer.from_pretrained(to)
    made = model.generate(PROMPT, "text", sampling=Sampling(temperature=0), most=40)[0]
    ids = model.tokens(PROMPT)
    assert tokenizer(PROMPT)["input_ids"] == ids
    text = model.vocabulary.modality("text")
    others = [i for i in range(model.vocabulary.size) if not text.first <= i <= text.last and i != 2]
    out = theirs.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False, suppress_tokens=others)[0, len(ids) :]
    assert made.ids == out.tolist()
    assert len(made.ids) > 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_stay_as_they_are_in_shards_too(tmp_path: Path, dtype: torch.dtype) -> None:
    foreign.chameleon(tmp_path / "theirs", swin=True, dtype=dtype, shard="50KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    to = exported(imported(tmp_path / "theirs"), "ours", "shard_gb=1e-4")
    before, after = weights(tmp_path / "theirs"), weights(to)
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[name]) and x.dtype == after[name].dtype for name, x in before.items())
    index = json.loads((to / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == after.keys()
    assert max(f.stat().st_size for f in to.glob("*.safetensors")) < 2e5
    ChameleonForConditionalGeneration.from_pretrained(to)


def test_text_of_it_alone(there: tuple[Path, Any]) -> None:
    run = imported(there[0])
    to = exported(run, "alone", "text_only=true")
    ours, alone = Model.load(run, "cpu"), Model.load(to, "cpu")
    assert alone.modalities == ("text",)
    torch.testing.assert_close(alone.logits(PROMPT), ours.logits(PROMPT), rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(to)(PROMPT)["input_ids"] == ours.tokens(PROMPT)
    assert json.loads((to / "config.json").read_text())["model_type"] == "momafuse"
