"""lm-eval's own `hf` model on an exported folder scores what our adapter scores on the run, text for text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momafuse import lm_eval as command
from momafuse.export import main as export
from tests.evaluation.test_language_model import write_task
from tests.exchange.runs import make_run

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed: pip install 'momafuse[eval]'")


def scores(out: Path, *words: str) -> dict[str, list[float]]:
    """Task -> the log-likelihood of every text."""
    where = ["--include_path", str(out.parent), "--device", "cpu", "--output_path", str(out), "--log_samples"]
    command.main([*words, *where, "--batch_size", "3"])
    found = {}
    for file in sorted(out.rglob("samples_*.jsonl")):
        rows = sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda row: row["doc_id"])
        task = "tiny_choice" if "tiny_choice" in file.name else "tiny_rolling"
        found[task] = [float(r[0][0] if isinstance(r[0], list) else r[0]) for row in rows for r in row["resps"]]
    return found


@pytest.mark.parametrize(("experiment", "alone"), [("moma_4t4i", False), ("moma_4t4i", True), ("mod_moma_4t4i", False)])
def test_scores_are_the_same(experiment: str, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write_task(tmp_path)
    run, folder = make_run(tmp_path / "runs", experiment), tmp_path / "exported"
    export([f"run={run}", f"to={folder}", f"text_only={str(alone).lower()}"])
    ours = scores(tmp_path / "ours", "--model_args", f"run={run}", "--tasks", "tiny_choice,tiny_rolling")
    hf = ("--model", "hf", "--model_args")
    theirs = scores(tmp_path / "choice", *hf, f"pretrained={folder}", "--tasks", "tiny_choice")
    # of whole texts it would score a second bos behind the first, with any tokenizer that puts one in front
    theirs |= scores(tmp_path / "rolling", *hf, f"pretrained={folder},add_bos_token=False", "--tasks", "tiny_rolling")
    assert ours.keys() == theirs.keys() == {"tiny_choice", "tiny_rolling"}
    for task, found in ours.items():
        assert len(found) > 3
        assert theirs[task] == pytest.approx(found, abs=1e-3, rel=1e-5)
