"""The stage on made voices: it learns, and what it writes is what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from momafuse.config.compose import compose_jobs
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.speech.report import measure
from momafuse.speech.tokenizer import SpeechTokenizer
from momafuse.tokenizers.runs import task_of, train
from momafuse.tokenizers.speech import SpeechTask
from tests.speech.sounds import encoded, voice

WORDS = """tokenizer=speech_vq data=sounds tokenizer.name=tiny tokenizer.architecture.codes=20 tokenizer.architecture.code_dim=4
tokenizer.architecture.frame_channels=8 tokenizer.architecture.code_channels=12 tokenizer.architecture.frame_blocks=1
tokenizer.architecture.encoder_blocks=2 tokenizer.architecture.decoder_blocks=4 tokenizer.excerpt=12 tokenizer.plain_steps=100
tokenizer.weight_ema=0.9 trainer.max_steps=400 trainer.global_batch=8 trainer.eval_every=200 trainer.dry_step=false
trainer.precision=fp32 optim.lr=5e-3 optim.warmup_steps=5 logger.wandb=disabled""".split()


def test_it_learns_and_what_is_written_is_what_was_measured(tmp_path: Path) -> None:
    voices = tmp_path / "voices"
    voices.mkdir()
    rows = ["file_name,text,split"]
    for n in range(20):
        (voices / f"{n}.wav").write_bytes(encoded(voice(1 + n % 3 / 2, 16_000, n), 16_000))
        rows.append(f"{n}.wav,voice {n},{'validation' if n % 5 == 0 else 'train'}")
    (voices / "metadata.csv").write_text("\n".join(rows))
    words = [*WORDS, f"data.sources.sounds.path={voices}", f"run.root={tmp_path}", f"out={tmp_path / 'out'}"]
    job = compose_jobs(words, "train_tokenizer", TokenizerTraining)[0]
    train(job, say=lambda line: None)
    task = task_of(job.config)
    assert isinstance(task, SpeechTask)
    report = json.loads((tmp_path / "tiny" / "report.json").read_text())
    learnt = [sound.frames.float() for sound in task._train]
    mean = torch.cat(learnt, dim=1).mean(dim=1, keepdim=True)
    baseline = 20 * float(torch.cat([s.frames.float() - mean for s in task._heldout], dim=1).abs().mean())
    found = report["heldout"]
    assert found["error"] < 0.8 * baseline, "dB, of a model that says the mean frame"
    assert found["sounds"] == 4
    assert found["places"] == sum(s.frames.shape[1] // 4 for s in task._heldout)
    assert 3 < found["perplexity"] <= found["codes_used"] <= 20
    again = measure(SpeechTokenizer.load(str(tmp_path / "out" / "tiny.safetensors")), task._heldout)
    assert (again.error, again.codes_used) == (found["error"], found["codes_used"])
