from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

from momafuse.data.corpus import Corpus
from momafuse.data.packing import PackPlan
from scripts.bench_loader import PAIRS, TEXTS, fabricate_sparse

ROOT = Path(__file__).resolve().parents[2]


def test_it_prints_the_figures() -> None:
    command = [sys.executable, "scripts/bench_loader.py", "--tokens", "1e8", "--sequences", "64"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    figures = json.loads(done.stdout)
    assert set(figures) == {
        "tokens_per_second", "memmap_tokens_per_second", "memmap_ratio", "plan_tokens_per_second", "open_seconds", "open_mb"
    }  # fmt: skip
    assert all(figures[name] > 0 for name in figures if name != "open_mb")


def test_opening_does_not_hold_anything_per_document(tmp_path: Path) -> None:
    corpus_path = fabricate_sparse(tmp_path / "large", 10**10)  # 9.5 million documents: 76 MB for one number of each
    tracemalloc.start()
    try:
        corpus = Corpus.open(corpus_path)
        plan = PackPlan(corpus.train, (2048, 2048), {PAIRS: 1.0, TEXTS: 1.0}, 0, 4096)
        assert plan.sequences_per_epoch == 10**10 // 2 // 1104 // 2
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()
