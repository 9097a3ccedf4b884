"""What is wrong with a foreign checkpoint is said in one line, before a weight is read; nothing is left of the attempt."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from momafuse.checkpoint.huggingface import files
from momafuse.errors import UserError
from momafuse.export import main as export
from momafuse.import_ import main as import_
from momafuse.interface import Model
from tests.exchange import foreign
from tests.exchange.runs import make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    foreign.chameleon(folder / "chameleon", swin=True)
    foreign.chameleon(folder / "sharded", swin=False, shard="50KB")
    foreign.llama(folder / "llama")
    return folder


def copied(folder: Path) -> dict[str, torch.Tensor]:
    """Out of the file, which may be written over then."""
    return {name: x.clone() for name, x in load_file(folder / "model.safetensors").items()}


def edited(**values: Any) -> Callable[[Path], None]:
    """A folder whose config.json has these values."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return edit


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        found = copied(folder)
        change(found)
        save_file(found, folder / "model.safetensors")

    return edit


def truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def pickled(folder: Path) -> None:
    torch.save(copied(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def disguised(folder: Path) -> None:
    torch.save(copied(folder), folder / "model.safetensors")


def without_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def wrong_index(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = sorted(set(index["weight_map"].values()) - {index["weight_map"]["lm_head.weight"]})[
        0
    ]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def other_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(foreign.chameleon_tokenizer(seed=9)))


def text_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(foreign.byte_level([], 300)))


def text_without_map(folder: Path) -> None:
    edited(vocabulary_map=None)(folder)
    text_tokenizer(folder)


WRONG = {
    "another width": ("chameleon", edited(hidden_size=128), "is (64,), by config.json (128,)"),
    "another vocabulary size": ("chameleon", edited(vocab_size=400), "by config.json (400, 64)"),
    "the tokenizer of another model": ("chameleon", other_tokenizer, "it is the tokenizer of another model"),
    "a tokenizer of text alone": ("chameleon", text_tokenizer, "it is the tokenizer of another model"),
    "the same, without a map": ("chameleon", text_without_map, "names no image codes"),
    "no tokenizer": ("chameleon", lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "more ids than rows": ("llama", other_tokenizer, "has 392 ids, the weights 444 rows"),
    "a pickle": ("chameleon", pickled, "has pytorch_model.bin and no model.safetensors; only safetensors are read"),
    "a pickle under another name": ("chameleon", disguised, "is a pickle; only safetensors are read"),
    "truncated": ("chameleon", truncated, "model.safetensors: is truncated; copy or download it again"),
    "a shard is missing": ("sharded", without_shard, "which is not there; copy or download it again"),
    "an index of another model": ("sharded", wrong_index, "lm_head.weight is not in model-"),
    "no weights": ("chameleon", lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "no config": ("chameleon", lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
    "a tensor is missing": ("chameleon", tensors(lambda x: x.pop("model.norm.weight")), "model.norm.weight (64,) is missing"),
    "a tensor too many": ("llama", tensors(lambda x: x.update(odd=torch.ones(2))), "odd has no place"),
    "one of the image tokenizer's": (
        "chameleon", tensors(lambda x: x.pop("model.vqmodel.quant_conv.bias")), "quant_conv.bias: is missing",
    ),
    "numbers that are no floats": ("llama", tensors(lambda x: x.update(odd=torch.ones(2).char())), "type I8; known are"),
    "another architecture": ("llama", edited(model_type="gpt2"), "model_type=gpt2: known are chameleon, llama"),
    "biases": ("llama", edited(attention_bias=True), "attention_bias=True: momafuse's model has False alone"),
    "no heads": ("llama", edited(num_attention_heads=0), "a size is below 1"),
    "no layers": ("llama", edited(num_hidden_layers=-1), "a size is below 1"),
    "what momafuse.export wrote": ("llama", edited(model_type="momafuse"), "take it as it is; to train on, take the run"),
    "scaled positions": (
        "llama", edited(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5}), "rope_type=llama3: momafuse's model has",
    ),
    "another activation": ("llama", edited(hidden_act="gelu"), "hidden_act=gelu"),
    "heads of their own width": ("llama", edited(head_dim=32), "head_dim=32: momafuse's model has 16 alone"),
    "a size that is no number": ("llama", edited(hidden_size="wide"), "a value is of another type than it should be"),
    "what our image tokenizer is not": ("chameleon", edited(vq_config=foreign.VQ | {"double_latent": True}), "double_latent"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_is_refused_before_memory_is_taken(
    case: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    which, spoil, words = WRONG[case]
    shutil.copytree(made / which, tmp_path / "theirs")
    spoil(tmp_path / "theirs")
    monkeypatch.setattr(files.SafeFiles, "read", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(SystemExit) as end:
        import_([f"from={tmp_path / 'theirs'}", f"root={tmp_path / 'runs'}", "name=run"])
    said = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2
    assert said[-1].startswith("momafuse: error: ")
    assert len([line for line in said if "error" in line]) == 1
    assert words in said[-1]
    assert not list((tmp_path / "runs").glob("*"))
    assert not list((tmp_path / "runs").glob(".*"))


def test_a_run_of_that_name_stays_as_it_is(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "llama").mkdir()
    with pytest.raises(SystemExit):
        import_([f"from={made / 'llama'}", f"root={tmp_path}"])
    assert "choose another name" in capsys.readouterr().err
    assert not list((tmp_path / "llama").iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["name=../x"], "name=../x: must be fit for a folder"),
        (["name=a/b"], "name=a/b: must be fit for a folder"),
        (["seed=-1"], "error: seed=-1: must not be negative"),
        (["image_tokenizer=starter_vq_v2"], "image_tokenizer=starter_vq_v2: a Chameleon takes its own alone"),
    ],
)
def test_words_that_make_no_run(
    words: list[str], said: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        import_([f"from={made / 'chameleon'}", f"root={tmp_path / 'runs'}", *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_with_blanks_is_quoted_for_a_shell(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_([f"from={made / 'llama'}", f"root={tmp_path / 'my runs'}", "name=a b"])
    ask, train = (shlex.split(line) for line in capsys.readouterr().out.splitlines()[-2:])
    run = f"{tmp_path}/my runs/a b"
    assert ask[3] == f"run={run}"
    assert train[3:] == ["--config-dir", f"{run}/configs", "+experiment=moma_4t4i", "size=a b", f"upcycle={run}", "data=..."]


@pytest.mark.parametrize(
    ("experiment", "words", "said"),
    [
        ("moma_4t4i", ["format=chameleon"], "model.experts={'text': 4, 'image': 4}: the chameleon layout has {'all': 1} alone"),
        ("dense", ["format=chameleon"], "model.attention.qk_norm=rms: the chameleon layout has layer alone"),
        ("dense", ["format=chameleon", "text_only=true"], "write format=momafuse"),
        ("dense", ["shard_gb=0"], "shard_gb=0.0: must be above 0"),
    ],
)
def test_what_cannot_be_exported_is_said(
    experiment: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, experiment)
    with pytest.raises(SystemExit) as end:
        export([f"run={run}", f"to={tmp_path / 'out'}", *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_tokenizer_that_is_no_chameleons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "dense", "model.attention.qk_norm=layer")
    with pytest.raises(SystemExit):
        export([f"run={run}", f"to={tmp_path / 'out'}", "format=chameleon"])
    assert "is no VQGAN" in capsys.readouterr().err
    export([f"run={run}", f"to={tmp_path / 'out'}"])  # auto takes the other form
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "momafuse"
    with pytest.raises(SystemExit):
        export([f"run={run}", f"to={tmp_path / 'out'}"])
    assert "is there already" in capsys.readouterr().err


def test_without_auxiliary_routers_it_is_exported_and_not_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from momafuse.generate import main as generate

    run = make_run(tmp_path, "moma_4t4i", auxiliary=False)
    export([f"run={run}", f"to={tmp_path / 'out'}"])
    with pytest.raises(SystemExit):
        generate([f"run={tmp_path / 'out'}", "prompt=a", "make=text"])
    said = capsys.readouterr().err
    assert "has no auxiliary routers" in said
    assert said.endswith("and export those: python -m momafuse.train +experiment=aux_routers model_from=RUN\n")


def in_config(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / "config.json").read_text()
        assert old in text
        (folder / "config.json").write_text(text.replace(old, new))

    return edit


EXPORTED_WRONG = {
    "another vocabulary": (
        lambda folder: (folder / "text.json").write_text(json.dumps(foreign.byte_level([], 300))),
        "its text tokenizer is not the one that it was made with",
    ),
    "a tokenizer is missing": (lambda folder: (folder / "text.json").unlink(), "text.json: no such file; copy or download"),
    "a tokenizer of another folder": (in_config('"text.json"', '"../text.json"'), "../text.json is no file of this folder"),
    "a router of a package that is not there": (in_config('"expert_choice"', '"mine"'), "router.kind=mine: no such kind"),
    "another precision": (in_config('"precision": "fp32"', '"precision": "odd"'), "precision odd"),
}


@pytest.mark.parametrize("case", EXPORTED_WRONG)
def test_an_exported_folder_that_was_changed_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, said = EXPORTED_WRONG[case]
    (tmp_path / "tokenizer.json").write_text(json.dumps(foreign.byte_level(["<s>", "</s>", "<pad>"])))
    run = make_run(tmp_path, "moma_4t4i", f"tokenizer.text={tmp_path / 'tokenizer.json'}")
    export([f"run={run}", f"to={tmp_path / 'out'}"])
    spoil(tmp_path / "out")
    monkeypatch.setattr(files.SafeFiles, "read", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(UserError, match=re.escape(said)):
        Model.load(tmp_path / "out", "cpu")
