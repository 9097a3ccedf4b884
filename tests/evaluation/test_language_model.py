"""Scores of texts against the whole softmax of each text alone; what lies behind a text and beside it does not count."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from momafuse import lm_eval as command
from momafuse.errors import UserError
from momafuse.evaluation.language_model import LanguageModel, Score
from momafuse.generation.passes import pass_of
from tests.training.conftest import Train

TEXTS = ["a bird", "two cats asleep on a lawn", "red", "the the the", "a small picture of a tall tree, seen from below"]


@pytest.fixture(scope="module")
def runs() -> dict[str, Path]:
    return {}


@pytest.fixture
def trained(run: Train, runs: dict[str, Path]) -> Path:
    """A dense run of a few steps, once."""
    if "dense" not in runs:
        runs["dense"] = run("trainer.max_steps=6", experiment="dense")
    return runs["dense"]


@pytest.fixture
def lm(trained: Path) -> LanguageModel:
    return LanguageModel.load(str(trained), "cpu")


def logits_of(lm: LanguageModel, ids: Sequence[int]) -> torch.Tensor:
    """(len(ids), V) in float64, of this row of ids alone."""
    batch = pass_of([ids], lm.vocabulary, torch.device("cpu"))
    with torch.no_grad():
        return lm.model(batch, lambda hidden, head: hidden.double() @ head.double().t())[0]


def plain_score(lm: LanguageModel, context: Sequence[int], continuation: Sequence[int]) -> Score:
    ids = [*context, *continuation][-lm.length - 1 :]
    logits, total, greedy = logits_of(lm, ids), 0.0, True
    for place in range(len(ids) - len(continuation), len(ids)):
        row = logits[place - 1]
        total += float(row[ids[place]] - torch.logsumexp(row, 0))
        greedy &= int(row.argmax()) == ids[place]
    return total, greedy


@pytest.mark.parametrize("experiment", ["dense", "moe_1t1i", "mot", "mot_ffn_only"])
def test_scores_are_those_of_a_text_alone(run: Train, experiment: str) -> None:
    lm = LanguageModel.load(str(run("trainer.max_steps=2", experiment=experiment)), "cpu")
    bos = lm.vocabulary.specials.bos
    pairs = [([bos, *lm.encode(a)], lm.encode(" " + b)) for a in TEXTS for b in TEXTS[:3]]
    likeliest = int(logits_of(lm, [bos, *lm.encode("a bird")])[-1].argmax())
    long = [lm.encode(TEXTS[4] * 50)[: lm.length + 9], lm.encode("red")]
    pairs += [([bos], lm.encode("red")), ([bos, *lm.encode("a bird")], [likeliest]), (long[0], long[1])]
    found = dict(lm.scores(pairs, 4))
    assert sorted(found) == list(range(len(pairs)))
    for n, (context, continuation) in enumerate(pairs):
        total, greedy = plain_score(lm, context, continuation)
        assert found[n][0] == pytest.approx(total, abs=1e-4)
        assert found[n][1] == greedy
    assert found[len(pairs) - 2][1]
    assert not all(greedy for _, greedy in found.values())


def test_what_does_not_fit_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"a text of 257 tokens is to be scored, but this run's sequences have 256"):
        list(lm.scores([([1], [50] * (lm.length + 1))]))


def test_routers_that_see_the_future_are_refused(run: Train) -> None:
    folder = run("trainer.max_steps=1")
    remedy = r"has no auxiliary routers, .*: python -m momafuse\.train \+experiment=aux_routers model_from="
    with pytest.raises(UserError, match=remedy):
        LanguageModel.load(str(folder))


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete checkpoint there"):
        LanguageModel.load(str(tmp_path))


def write_task(folder: Path) -> list[dict[str, object]]:
    """A task file of lm-eval with a choice, and one of perplexity, over local lines."""
    rows: list[dict[str, object]] = [
        {"question": text, "options": ["red", "a bird", " two"], "answer": n % 3} for n, text in enumerate(TEXTS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = f"""dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder / "rows.jsonl"}}}
test_split: test
"""
    (folder / "choice.yaml").write_text(
        shared + "task: tiny_choice\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}:"\ndoc_to_choice: options\ndoc_to_target: answer\n'
        "metric_list: [{metric: acc}]\n"
    )
    (folder / "rolling.yaml").write_text(
        shared + "task: tiny_rolling\noutput_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: "{{question * 30}}"\nmetric_list: [{metric: bits_per_byte}]\n'
    )
    (folder / "generate.yaml").write_text(
        shared + "task: tiny_generate\noutput_type: generate_until\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{question}}"\n'
    )
    return rows


def test_lm_eval_scores_a_task(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed: pip install 'momafuse[eval]'")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    rows = write_task(tmp_path)
    words = [
        "--model_args",
        f"run={trained}",
        "--include_path",
        str(tmp_path),
        "--device",
        "cpu",
        "--output_path",
        str(tmp_path / "out"),
    ]
    command.main([*words, "--tasks", "tiny_choice,tiny_rolling", "--batch_size", "3"])
    (report,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(report.read_text())["results"]
    lm = LanguageModel.load(str(trained), "cpu")
    bos, right, bits, size = lm.vocabulary.specials.bos, 0, 0.0, 0
    for row in rows:
        context = f"{row['question']}:"
        options = [str(option) for option in row["options"]]  # type: ignore[attr-defined]
        ids = [lm.encode(f"{context} {option}") for option in options]
        start = len(lm.encode(context))
        scored = [plain_score(lm, [bos, *whole[:start]], whole[start:])[0] for whole in ids]
        right += scored.index(max(scored)) == row["answer"]
        text = str(row["question"]) * 30
        whole = lm.encode(text)
        for at in range(0, len(whole), lm.length):
            part = whole[at : at + lm.length]
            before = [bos] if at == 0 else whole[at + len(part) - lm.length - 1 : at]  # as much as a sequence holds
            bits -= plain_score(lm, before, part)[0]
        size += len(text.encode())
    assert results["tiny_choice"]["acc,none"] == pytest.approx(right / len(rows))
    assert results["tiny_rolling"]["bits_per_byte,none"] == pytest.approx(bits / size / 0.6931471805599453, rel=1e-5)
    with pytest.raises(SystemExit) as end:
        command.main([*words, "--tasks", "tiny_generate"])
    assert end.value.code == 2
    assert "tiny_generate generates text, which is not supported" in capsys.readouterr().err


def test_without_the_extra_the_command_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit) as end:
        command.main(["--model_args", "run=x", "--tasks", "piqa"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "momafuse: error: lm-eval is not installed; pip install 'momafuse[eval]'\n"
