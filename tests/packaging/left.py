"""What a command leaves by its page: files where the page says they are, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from momafuse.config.compose import Job
from momafuse.data.corpus import unfinished
from momafuse.data.prepare import corpus_path
from tests.packaging.pages import Command


@dataclass(frozen=True)
class Done:
    """A command that has run in the working folder: its shrunk words, and what it printed."""

    command: Command
    words: list[str]
    jobs: list[Job[Any]]  # what they were composed into
    said: str

    def value(self, key: str) -> str:
        (found,) = [word.partition("=")[2] for word in self.words if word.startswith(f"{key}=")]
        return found


def holds(path: Path, *files: str) -> None:
    missing = [file for file in files if not (path / file).is_file()]
    assert not missing, f"{path} holds no {', '.join(missing)}, but {sorted(p.name for p in path.glob('*'))}"


def trained_to_its_end(run: Path, steps: int = 2) -> None:
    holds(run, "config.yaml", "metrics.jsonl", "report.json", "revision.txt")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if "train/loss" in row} == set(range(1, steps + 1))
    report = json.loads((run / "report.json").read_text())
    assert report["steps"] == steps
    assert 0 < report["eval/loss_text"] < 20


def train(done: Done) -> None:
    if "--help" in done.words or "--cfg" in done.words:
        assert "run.seed" in done.said or "seed: 0" in done.said
        return
    for job in done.jobs:
        run = Path(job.config.run.root) / str(job.config.run.name)
        trained_to_its_end(run, job.config.trainer.max_steps)
        holds(run / "checkpoints" / f"step_{job.config.trainer.max_steps:08d}", "complete.json", "state.json")
        corpus = corpus_path(job.config)
        holds(corpus, "manifest.json")


def prepare(done: Done) -> None:
    (job,) = done.jobs
    corpus = corpus_path(job.config)
    if job.config.prepare.shard is not None:
        assert corpus.exists() or unfinished(corpus).is_dir()
        return
    holds(corpus, "manifest.json", "rejects.jsonl")
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert {*manifest["sources"], *manifest.get("empty", ())} == set(job.config.data.sources)
    if job.config.show == "none":
        assert f"{corpus} is made" in done.said or f"{corpus} is complete" in done.said
    else:
        assert "passes" in done.said
    if job.config.show == "sample":
        holds(corpus, "sample.html")
    if "captioned_folder" in str(done.command):
        holds(corpus, "fit_pictures_image.png")  # the five worst, docs/image_tokenizer.md


def evaluate(done: Done) -> None:
    found = Path(done.value("run")) / "evaluation" / f"step_00000002-{done.value('routing')}"
    assert set(json.loads(found.with_suffix(".json").read_text())["routing"]) == {"training", "causal"}
    assert "| text |" in found.with_suffix(".md").read_text()


def generate(done: Done) -> None:
    out = Path(done.value("run")) / "generated"
    holds(out, "index.html", "generated.jsonl")
    assert len((out / "generated.jsonl").read_text().splitlines()) == 1 + ("prompts=FILE" in done.words)
    assert list(out.glob("*.png")) or "make=image" not in done.words


def compare(done: Done) -> None:
    (job,) = done.jobs
    out = next(Path(line).parent for line in done.said.splitlines() if line.endswith("compare.md"))
    assert job.config.out is None or out == Path(job.config.out)
    holds(
        out,
        "compare.md",
        "compare.json",
        "compare.csv",
        "training.png",
        "held_out.png",
        "seconds.png",
        "ends.png",
        "factors.png",
    )
    table = [line for line in (out / "compare.md").read_text().splitlines() if line.startswith("|")]
    assert table
    assert set(table) <= set(done.said.splitlines())


def describe(done: Done) -> None:
    if "format=json" in done.words:
        assert json.loads(done.said)["parameters"]["total"] > 0
    else:
        assert "FLOPs" in done.said
        assert "peak of a step" in done.said
    said = " ".join(done.said.split())
    for line in done.command.notes:  # figures of what is not shrunk
        assert " ".join(line.split()) in said


def sweep(done: Done) -> None:
    (job,) = done.jobs
    s = job.config.sweep
    if s.slurm:
        assert "#SBATCH" in done.said
    elif s.dry:
        assert "python -m momafuse.train +experiment=dense" in done.said
    elif s.store:
        holds(Path(str(s.stored)) / "dense-0", "config.yaml", "metrics.jsonl", "report.json", "revision.txt", "state.json")
    else:
        assert "# all runs are complete" in done.said
        run = Path("runs") / done.value("sweep") / f"{s.only[0]}-0"
        trained_to_its_end(run)
        holds(run, "index.html", "plots/loss.png", "samples/reconstruction.png")


def train_tokenizer(done: Done) -> None:
    (job,) = done.jobs
    out, name = Path(job.config.out), job.config.tokenizer.name
    if job.config.tokenizer.kind == "bpe":
        holds(out, f"{name}.model")
        return
    holds(out, f"{name}.safetensors", f"{name}.json", f"{name}.png")
    holds(Path("runs") / name, "metrics.jsonl", "report.json")
    assert json.loads((out / f"{name}.json").read_text())["steps"] == 3


def import_(done: Done) -> None:
    run = Path("runs") / Path(done.value("from")).name
    holds(run, "config.yaml", "checkpoints/latest", f"configs/size/{run.name}.yaml")


def export(done: Done) -> None:
    holds(Path(done.value("to")), "config.json", "generation_config.json", "tokenizer.json", "README.md")


def launch(done: Done) -> None:
    assert done.said.startswith("#!")
    assert "#SBATCH" in done.said
    assert not Path("launches").exists()


def demo(done: Done) -> None:
    assert done.said.startswith("http://127.0.0.1:")


def plan_scaling(done: Done) -> None:
    assert len([line for line in done.said.splitlines() if line.startswith("|")]) == 2 + 10


LEFT: dict[str, Callable[[Done], None]] = {
    "train": train, "prepare": prepare, "evaluate": evaluate, "generate": generate, "compare": compare, "describe": describe,
    "sweep": sweep, "train_tokenizer": train_tokenizer, "import_": import_, "export": export, "launch": launch, "demo": demo,
    "scripts/plan_scaling.py": plan_scaling,
}  # fmt: skip


def text_model(names: dict[str, Any]) -> None:
    """docs/text_tasks.md: log-likelihoods of its two words."""
    assert sorted(number for number, _ in names["lm"].scores(names["pairs"])) == [0, 1]


def notebook(names: dict[str, Any]) -> None:
    """docs/generation.md: what its comments say of shapes."""
    assert [tuple(made.parts[0].value.shape) for made in names["made"]] == [(3, 64, 64)] * 4
    assert tuple(names["codes"].shape) == (64,)
    holds(Path(), "kept.png")


def experts(names: dict[str, Any]) -> None:
    """docs/demo.md: an expert for each token of each layer."""
    tokens = names["m"].tokens("a red apple: <image:apple.png>")
    for layer in names["layers"]:
        assert (layer.names[0], layer.names[-1]) == ("text 1", "image 4")
        assert layer.expert.shape == layer.gate.shape == (len(tokens),)


def exported(names: dict[str, Any]) -> None:
    """docs/checkpoints.md: transformers says of tokens what momafuse says."""
    ids = torch.tensor([names["m"].tokens("a red apple")])
    assert names["tokenizer"]("a red apple", return_tensors="pt").input_ids.tolist() == ids.tolist()
    with torch.no_grad():
        logits = names["model"](ids).logits[0]
    torch.testing.assert_close(logits, names["m"].logits("a red apple"), rtol=1e-4, atol=1e-4)


# What is in the names of a page's Python, at its end.
TYPED: dict[str, Callable[[dict[str, Any]], None]] = {
    "text_tasks": text_model, "generation": notebook, "demo": experts, "checkpoints": exported,
}  # fmt: skip
