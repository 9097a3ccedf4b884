"""Every member of the zoo as a folder: momafuse and transformers' Auto classes say what the run says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import momafuse.huggingface
from momafuse.checkpoint import store
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.config.compose import members
from momafuse.export import main as export
from momafuse.interface import Model
from tests.exchange.runs import make_run

TEXT = "penguin: animal, antarctica, bird. a short-legged flightless bird"
OTHERS = ["Zwölf Boxkämpfer", "a red apple"]


def exported(run: Path, *words: str) -> Path:
    to = run.parent / "-".join(["exported", *(word.partition("=")[0] for word in words)])
    export([f"run={run}", f"to={to}", *words])
    return to


def mixed_ids(model: Model) -> list[int]:
    image = model.vocabulary.modality("image")
    return [
        *model.tokens(TEXT),
        image.begin,
        *range(image.first, image.first + image.block),
        image.end,
        *model.tokens(TEXT)[1:],
    ]


@pytest.mark.parametrize("experiment", members())
def test_every_member_is_the_same_when_loaded(experiment: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, experiment)
    ours, folder = Model.load(run, "cpu"), exported(run)
    again = Model.load(folder, "cpu")
    ids = mixed_ids(ours)
    wanted = ours.logits(ids)
    assert torch.equal(again.logits(ids), wanted)
    assert again.vocabulary == ours.vocabulary
    stored = StoredTensors(store.find(run))
    files = load_file(folder / "model.safetensors")
    assert files.keys() == {f"model.{path}" for path in stored.shapes()}
    assert all(torch.equal(files[f"model.{path}"], stored.weight(path)) for path in stored.shapes())
    auto = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        torch.testing.assert_close(auto(torch.tensor([ids])).logits[0, :, : wanted.shape[1]], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("experiment", members())
def test_text_alone_says_of_text_what_the_whole_says(experiment: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, experiment)
    ours = Model.load(run, "cpu")
    folder = exported(run, "text_only=true")
    alone = Model.load(folder, "cpu")
    assert alone.modalities == ("text",)
    torch.testing.assert_close(alone.logits(TEXT), ours.logits(TEXT), rtol=0, atol=1e-6)  # of other sizes, products round anew
    names = load_file(folder / "model.safetensors").keys()
    assert not [name for name in names if name.split(".")[-1] == "image" or ".image." in name]
    has_own = any(".image" in path for path in StoredTensors(store.find(run)).shapes())
    size, whole = (sum(f.stat().st_size for f in d.glob("*.safetensors")) for d in (folder, exported(run)))
    assert (size < whole) == has_own
    assert alone.generate("a bird", "text", most=5)[0].ids
    assert not (folder / "image.safetensors").exists()


def test_padding_on_either_side_changes_nothing(tmp_path: Path) -> None:
    folder = exported(make_run(tmp_path, "moma_4t4i"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == Model.load(folder, "cpu").tokens(TEXT)
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0]
        for side in ("left", "right"):
            tokenizer.padding_side = side
            batch = tokenizer([TEXT, *OTHERS, TEXT + TEXT], return_tensors="pt", padding=True)
            found = model(**batch).logits[0][batch["attention_mask"][0].bool()]
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_transformers_writes_what_momafuse_writes(tmp_path: Path) -> None:
    from momafuse.generation.sampling import Sampling

    folder = exported(make_run(tmp_path, "moma_4t4i"))
    ours = Model.load(folder, "cpu")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    text = ours.vocabulary.modality("text")
    others = [
        i for i in range(model.config.vocab_size) if not text.first <= i <= text.last and i != ours.vocabulary.specials.eos
    ]
    batch = tokenizer(OTHERS, return_tensors="pt", padding=True, padding_side="left")
    out = model.generate(**batch, max_new_tokens=12, do_sample=False, suppress_tokens=others)[:, batch["input_ids"].shape[1] :]
    made = ours.generate(OTHERS, "text", sampling=Sampling(temperature=0), most=12)
    for row, one in zip(out.tolist(), made, strict=True):
        assert row[: len(one.ids)] == one.ids


def test_some_rows_alone(tmp_path: Path) -> None:
    folder = exported(make_run(tmp_path, "dense"))
    model, ids = AutoModelForCausalLM.from_pretrained(folder).eval(), torch.tensor([[1, *range(8200, 8210)]])
    with torch.inference_mode():
        whole = model(ids).logits
        assert torch.equal(model(ids, logits_to_keep=3).logits, whole[:, -3:])
        assert torch.equal(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, whole[:, [0, 4]])


def test_loss_is_the_mean_over_labels(tmp_path: Path) -> None:
    folder = exported(make_run(tmp_path, "dense"))
    model, ours = AutoModelForCausalLM.from_pretrained(folder).eval(), Model.load(folder, "cpu")
    ids = torch.tensor([ours.tokens(TEXT)])
    with torch.inference_mode():
        loss = float(model(ids, labels=ids).loss)
    logits = ours.logits(ids[0].tolist()).double().log_softmax(-1)
    likely = [float(logits[n, i]) for n, i in enumerate(ids[0, 1:].tolist())]
    assert loss == pytest.approx(-sum(likely) / len(likely), abs=1e-5)


def test_other_numbers_are_asked_for_by_dtype(tmp_path: Path) -> None:
    folder = exported(make_run(tmp_path, "mot"), "dtype=bf16")
    assert {x.dtype for x in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert Model.load(folder, "cpu").logits(TEXT).isfinite().all()


def test_the_card_has_the_figures_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "moma_4t4i")
    figures = {"eval/loss_text": 4.0021, "eval/loss_image": 5.5, "eval/routing": "causal", "unigram/text": 6.55, "steps": 3}
    (run / "report.json").write_text(json.dumps(figures))
    card = (exported(run) / "README.md").read_text()
    assert "| trained | 3 steps, 768 tokens, 1e+09 FLOPs |" in card
    assert "text 4.002, image 5.500 (causal routing)" in card
    assert "| experts | 4 text, 4 image |" in card
    assert "- moma_4t4i\n- mixture-of-experts\n---" in card
    assert (exported(make_run(tmp_path / "b", "dense")) / "README.md").read_text().count("- dense\n") == 1
    (run / "report.json").write_text(json.dumps(figures | {"steps": 2}))  # of another checkpoint
    assert "4.002" not in (exported(run, "dtype=fp32") / "README.md").read_text()


def test_nothing_in_the_folder_says_where_it_was_made(tmp_path: Path) -> None:
    folder = exported(make_run(tmp_path, "moma_4t4i"))
    for file in folder.glob("*.json"):
        assert str(tmp_path) not in file.read_text(), file


def test_tokenizers_that_are_files_go_along(tmp_path: Path) -> None:
    assets = Path(momafuse.huggingface.__file__).parent / "assets"
    for name in ("starter_bpe_v1.model", "starter_vq_v1.safetensors"):
        shutil.copy(assets / name, tmp_path / name)
    words = [f"tokenizer.text={tmp_path}/starter_bpe_v1.model", f"tokenizer.image={tmp_path}/starter_vq_v1.safetensors@128"]
    run = make_run(tmp_path / "runs", "dense", *words, "data.sequence_length=1024")
    ours, folder = Model.load(run, "cpu"), exported(run)
    for name in ("starter_bpe_v1.model", "starter_vq_v1.safetensors"):
        (tmp_path / name).unlink()
    again = Model.load(folder, "cpu")
    assert json.loads((folder / "config.json").read_text())["tokenizers"] == {
        "text": "text.model", "image": "image.safetensors@128",
    }  # fmt: skip
    assert again.vocabulary == ours.vocabulary
    assert again.vocabulary.modality("image").block == 256
    assert torch.equal(again.logits(TEXT), ours.logits(TEXT))
    folder.rename(tmp_path / "moved")
    assert Model.load(tmp_path / "moved", "cpu").tokens(TEXT) == ours.tokens(TEXT)


@pytest.mark.parametrize("experiment", ["moma_4t4i2s", "mot_speech"])
def test_a_third_modality_goes_along(experiment: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, experiment, "tokenizer=starter_speech", "data=spoken_pictures", "data.sequence_length=512")
    ours, folder = Model.load(run, "cpu"), exported(run)
    again = Model.load(folder, "cpu")
    assert again.modalities == ("text", "image", "speech")
    speech = ours.vocabulary.modality("speech")
    ids = [*mixed_ids(ours), speech.begin, *range(speech.first, speech.first + 9), speech.end]
    assert torch.equal(again.logits(ids), ours.logits(ids))
    alone = Model.load(exported(run, "text_only=true"), "cpu")
    assert torch.equal(alone.logits(TEXT), ours.logits(TEXT))
