"""`python -m momafuse.describe` as a user calls it, and what it says."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from momafuse.config.compose import Job, compose_jobs
from momafuse.config.describe import DescribeConfig
from momafuse.config.entry import help_text
from momafuse.describe import dense_of, description, main
from momafuse.reports.description_table import big, count, description_table, numbers

TOP = Path(__file__).parents[1]
BYTES = 79  # the column where the table of memory begins


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which may prepare nothing."""
    command = [sys.executable, "-m", "momafuse.describe", *words]
    environment = os.environ | {"PYTHONPATH": str(TOP)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert list(cwd.iterdir()) == []
    return done


def job(*words: str, user_dir: Path | None = None) -> Job[DescribeConfig]:
    return compose_jobs(list(words), "describe", DescribeConfig, user_dir=user_dir)[0]


def described(*words: str, user_dir: Path | None = None) -> dict[str, Any]:
    return description(job(*words, user_dir=user_dir))


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(list(words))
    return capsys.readouterr().out


def values_of(out: str) -> list[dict[str, Any]]:
    """The values of all jobs that were printed as JSON."""
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(out):
        value, at = decoder.raw_decode(out, at)
        values.append(value)
        at += 1
    return values


def test_the_json_of_the_largest_model(tmp_path: Path) -> None:
    """12 thousand million parameters; the wait is for importing torch."""
    done = run("+experiment=mod_moma_4t4i", "size=1_4b_mod", "model.ffn_multiple_of=1", "format=json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    d = json.loads(done.stdout)
    assert d["parameters"]["total"] == pytest.approx(11.85e9, rel=0.005)
    assert d["parameters"]["active"] < d["parameters"]["total"] / 7
    assert d["flops_per_token"]["training"] == 3 * d["flops_per_token"]["forward"]
    assert d["flops_per_token"]["dense_size"] == "1_4b"
    assert d["flops_per_token"]["ratio_to_dense"] == pytest.approx(1, abs=0.03)
    assert d["causal_training"] is False
    m = d["memory"]
    assert m["weights"] == m["gradients"] == m["optimizer"] / 2 == 4 * d["parameters"]["total"]
    assert m["peak"] > m["weights"] + m["gradients"] + m["optimizer"] + m["activations_total"]


def test_norms_of_every_head_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    own, words = "model.attention.qk_norm_per_head=true", ["+experiment=dense", "size=micro"]
    out, plain = printed(capsys, *words, own), printed(capsys, *words)
    assert "QK-norm rms with weights for every head; a token sees" in out
    assert "QK-norm rms; a token sees" in plain
    more, fewer = (described(*words, *w)["parameters"]["total"] for w in ([own], []))
    assert more - fewer == 2 * 2 * (2 - 1) * 16  # layers, q and k, heads, width


def test_the_table_in_any_folder(tmp_path: Path) -> None:
    done = run("+experiment=mod_moma_4t4i", "size=nano_mod", "trainer.precision=fp32", "trainer=cpu", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) < 45
    assert max(map(len, lines)) <= 150
    for part in (
        "mod_moma_4t4i, size=nano_mod: 10 layers of width 256, 12,288 ids",
        "0, 2 .. 8: depth 0.25 of the rows, then experts",
        "text: 4 x 768 for text; each takes 32 of the 256 rows of a pool",
        "4 heads of 64",
        "x dense at size=nano",
        "training is not causal: experts choose among the rows of 4 sequences, depth routers keep among the rows of one",
        "an evaluation under training routing sees the future",
        "attention scores and values",
        "memory for 16 x 256 tokens",
        "activations, float32 on cpu",
        "peak of a step",
    ):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["format=yaml"], "format=yaml: expected table or json"),
        (["experiment=dense"], "experiment is not in the defaults list; write +experiment=..."),
        (["model.n_heads=7"], "model.n_heads=7: must divide model.dim=256"),
        (["size=90m", "model.vocabulary_size=1000"], "model.vocabulary_size=1000: the tokenizers have 12288 ids"),
        (
            ["data.image_share=0.3"],
            "data.image_share=0.3: 76.8 of data.sequence_length=256 tokens are no whole number of items",
        ),
        (["tokenizer=starter_vq", "size=micro"], "tokenizer=starter_vq: says how one tokenizer is trained"),
        (["-m", "tokenizer=starter,vqgan_64"], "tokenizer=vqgan_64: says how one tokenizer is trained"),
        (["tokenizer=vqgan_64,starter_vq"], "tokenizer=vqgan_64,starter_vq: several values need -m"),
        (["tokenizer=vqgan_513"], "tokenizer=vqgan_513: no such option; did you mean vqgan_512?"),
        (
            ["tokenizer=vqgan_64", "tokenizer.max_shfit=3"],
            "tokenizer.max_shfit: no such key; did you mean tokenizer.max_shift?",
        ),
        (["tokenizer=vqgan_64", "model.dim=64"], "model.dim: no such key"),
        (["tokenizer=vqgan_64", "trainer.micro_batch=0"], "trainer.micro_batch=0: must be greater than 0"),
        (["tokenizer=starter_bpe"], "tokenizer.kind=bpe: has no layers to describe"),
        (["tokenizer=vqgan_64", "--config-dir=nowhere"], "--config-dir=nowhere: no such folder"),
        (["tokenizer.text=nowhere"], "tokenizer.text=nowhere: no such file"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert line in err


def test_help_names_the_format_and_its_examples_compose(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text("describe", "About.")
    assert "python -m momafuse.describe +experiment=moma_4t4i size=1_4b" in text
    for line in text.split("examples:")[1].strip().splitlines():
        main([*line.split("momafuse.describe")[1].split(), "--cfg", "job"])
        assert "format: " in capsys.readouterr().out
    assert "format=json" in printed(capsys, "--help")


def test_a_tokenizer_in_any_folder(tmp_path: Path) -> None:
    done = run("tokenizer=vqgan_512", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) <= 150
    assert "MiB for a step of 8 pictures" in done.stdout
    assert "peak of a step" in done.stdout
    page = (TOP / "docs" / "image_tokenizer.md").read_text()
    (example,) = re.findall(r"python -m momafuse.describe tokenizer=vqgan_512\n((?:    .*\n)+)", page)
    printed_lines = [line.strip() for line in lines]
    assert [line.removeprefix("    # ").strip() for line in example.splitlines()] == printed_lines[1:5]


def test_the_json_of_tokenizers(capsys: pytest.CaptureFixture[str]) -> None:
    found = values_of(printed(capsys, "-m", "tokenizer=starter_vq,speech_vq", "format=json"))
    assert [(d["name"], d["kind"]) for d in found] == [("starter_vq_v1", "vq"), ("starter_speech_v1", "speech_vq")]
    starter, speech = found
    assert starter["item"] == {"is": "picture", "shape": [3, 64, 64], "grid": [8, 8], "codes": 64, "bits": 832.0}
    assert speech["item"]["grid"] == [40]
    for d in found:
        assert d["parameters"]["total"] == sum(d["parameters"]["by_part"].values())
        assert d["flops"]["step"]["total"] > 3 * d["batch"] * d["flops"]["decoding"]
        assert set(d["memory"]["ways"]) == {"fp32", "bf16_cpu", "bf16_cuda"}


def test_a_users_own_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [starter_vq]\ntokenizer: {name: mine}\ntrainer: {global_batch: 2}\n"
    )
    (d,) = values_of(printed(capsys, "tokenizer=mine", "format=json", f"--config-dir={tmp_path}"))
    assert (d["name"], d["batch"]) == ("mine", 2)


def test_jobs_of_a_sweep_may_share_a_run_name(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "-m", "size=micro", "trainer.micro_batch=4,8", "trainer.global_batch=8", "format=json")
    small, large = (v["memory"]["activations"]["blocks"] for v in values_of(out))
    assert large == pytest.approx(2 * small, rel=0.01)


def test_a_micro_batch_that_train_would_not_take_is_not_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert described("size=nano")["batch"]["in_place"] == ""
    two = ("launch.nodes=1", "launch.gpus_per_node=2")
    asked, plain = described("size=nano", *two), described("size=nano", "trainer.micro_batch=8", *two)
    assert asked["batch"].pop("in_place") == "micro_batch 8 in place of 16: global_batch=16 over 2 ranks"
    assert plain["batch"].pop("in_place") == ""
    assert asked == plain
    assert "\nbatch      micro_batch 8 in place of 16: global_batch=16 over 2 ranks" in printed(capsys, "size=nano", *two)


def test_the_vocabulary_is_the_models_or_the_tokenizers() -> None:
    ids = [described("size=micro", *words)["model"]["vocabulary"] for words in ((), ("model.vocabulary_size=20000",))]
    assert ids == [12_288, 20_000]


def test_dense_is_causal_active_in_all_of_it_and_its_own_measure() -> None:
    d = described("+experiment=dense", "size=micro")
    assert d["causal_training"] is True
    assert d["chosen_among_sequences"] == {}
    assert d["parameters"]["active"] == d["parameters"]["total"]
    assert d["flops_per_token"]["ratio_to_dense"] == 1


def test_the_dense_model_of_everything_that_can_be_set() -> None:
    words = ["+experiment=mod_moma_4t4i", "size=90m_mod", "model.experts={text: 4, image: 4, shared: 1, every: 2, start: 1}"]
    words += ["model.depth.start=12", "model.width_share={image: 0.5}", "model.untie=[qkv, norms]", "data.image_share=experts"]
    size, config = dense_of(job(*words))
    assert size == "90m"
    assert config is not None
    plain = job("+experiment=dense", "size=90m").config.model
    assert replace(config.model, name="dense") == plain


def test_without_a_dense_model_there_is_no_ratio() -> None:
    """Six heads of keys and values fit the 18 heads of 1_4b_mod and not the 16 of 1_4b."""
    words = ["+experiment=mod_dense", "size=1_4b_mod", "model.attention.n_kv_heads=6", "model.n_layers=2"]
    assert dense_of(job(*words)) == ("1_4b", None)
    d = described(*words, "trainer.micro_batch=1", "trainer.precision=bf16")
    assert d["flops_per_token"]["ratio_to_dense"] is None
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(description_table(d))
    assert "dense at size=1_4b does not compose with these overrides: no ratio" in console.export_text()


def test_a_users_own_sizes_and_experiments(tmp_path: Path) -> None:
    for group in ("experiment", "size"):
        (tmp_path / group).mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nmodel: {name: mine, experts: {text: 2, image: 2, shared: 1}}\n"
    )
    (tmp_path / "size" / "tiny.yaml").write_text("# @package _global_\ndefaults: [micro]\nmodel: {n_layers: 1}\n")
    (tmp_path / "size" / "tiny_mod.yaml").write_text("# @package _global_\ndefaults: [tiny]\nmodel: {n_layers: 3}\n")
    d = described("+experiment=mine", "size=tiny_mod", user_dir=tmp_path)
    assert (d["name"], d["size"], d["flops_per_token"]["dense_size"]) == ("mine", "tiny_mod", "tiny")
    own = described("+experiment=mine", "size=tiny", user_dir=tmp_path)["flops_per_token"]
    assert own["ratio_to_dense"] > 1
    assert d["flops_per_token"]["dense_forward"] == own["dense_forward"]


def test_what_is_not_known_before_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["+experiment=mod_moma_4t4i", "size=micro", "model.depth.per_modality=false"]
    d = described(*words)
    assert d["memory"]["activations"] is None
    assert "only the device knows" in d["memory"]["unknown"]
    assert d["flops_per_token"]["forward"] > 0
    text = printed(capsys, *words)
    assert "not known before running" in text
    assert "each takes about" in text
    reference = described("+experiment=moma_4t4i", "size=micro", "trainer.backend=reference")
    assert "trainer.backend=reference" in reference["memory"]["unknown"]


def test_a_gpu_may_be_asked_about_from_anywhere() -> None:
    d = described("+experiment=dense", "size=micro", "trainer=gpu")
    assert (d["memory"]["device"], d["memory"]["precision"]) == ("cuda", "bfloat16")


def test_on_a_gpu_the_products_of_triton_are_counted() -> None:
    """Sizes stay on the device there, so that what needs them on the host is known, too."""
    words = ["+experiment=moma_4t4i", "size=micro", "trainer=gpu"]
    triton = described(*words, "trainer.backend=triton")["memory"]
    assert described(*words)["memory"] == triton
    assert described(*words, "trainer.backend=bmm")["memory"]["activations_total"] > triton["activations_total"]
    per_pool = described("+experiment=mod_moma_4t4i", "size=micro", "trainer=gpu", "model.depth.per_modality=false")
    assert per_pool["memory"]["unknown"] is None


def test_a_plan_that_does_not_fit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["+experiment=dense", "size=90m", "launch.nodes=1", "launch.gpus_per_node=1", "trainer.micro_batch=4"]
    assert "does not fit in the 24 GB of one" in printed(capsys, *plan, "trainer.micro_batch=64", "describe.gpu=l4")
    assert "does not fit" not in printed(capsys, *plan, "describe.gpu=h100_sxm")


def test_recomputation_stands_apart(capsys: pytest.CaptureFixture[str]) -> None:
    plain, again = (
        described("+experiment=moma_4t4i", "size=micro", f"trainer.activation_checkpointing={mode}")
        for mode in ("none", "full")
    )
    assert plain["flops_per_token"]["recomputation"] == 0
    assert again["flops_per_token"]["training"] == plain["flops_per_token"]["training"]
    head = plain["flops_per_token"]["by_part"]["head"]
    assert again["flops_per_token"]["recomputation"] == pytest.approx(plain["flops_per_token"]["forward"] - head)
    assert again["memory"]["activations_total"] < plain["memory"]["activations_total"]


def test_the_example_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    """All of it but bytes, which every change of the model moves: what stands left of them."""
    page = (TOP / "docs" / "describe.md").read_text()
    (command, example) = re.findall(r"`python -m momafuse.describe (.*)` says:\n\n```\n(.*?)```", page, re.DOTALL)[0]
    left = [[line[:BYTES].rstrip() for line in text.splitlines()] for text in (example, printed(capsys, *command.split()))]
    assert [line for line in left[0] if line] == [line for line in left[1] if line]


def test_words_of_the_table() -> None:
    assert [big(n) for n in (12, 1_234, 952_500_000, 3.172e9, 2e12)] == ["12", "1.234 K", "952.5 M", "3.172 G", "2 T"]
    assert count(11.85e9) == "11.85 B"
    runs = [[0, 1, 2, 3], [0, 2, 4, 6], [1, 3], [0, 1, 3, 7], [5]]
    assert [numbers(run) for run in runs] == ["0-3", "0, 2 .. 6", "1, 3", "0, 1, 3, 7", "5"]
