"""The router of docs/routers.md, as somebody who read the page would add it: a file of their own and `plugins=`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from momafuse.routing.kinds import KINDS, register_router

PAGE = Path(__file__).resolve().parents[2] / "docs" / "routers.md"
WORDS = ["+experiment=moe_8x", "plugins=[my_routers]", "router.kind=nearest", "model.name=nearest", "size=micro"]


def ran(folder: Path, module: str, *words: str) -> str:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(PAGE.parents[1])]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"momafuse.{module}", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_the_router_of_the_page_trains_evaluates_and_generates(tmp_path, small_corpus):
    (code,) = re.findall(r"```python\n(# my_routers\.py\n.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "my_routers.py").write_text(code)
    quick = ["trainer.max_steps=3", "logger.wandb=disabled", f"data.path={small_corpus}", "trainer.device=cpu"]
    ran(tmp_path, "train", *WORDS, *quick, "run.name=mine")
    rows = [json.loads(line) for line in (tmp_path / "runs/mine/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["eval/routing"] == "causal"
    assert "router/balance" in rows[0]
    assert "causal" in ran(tmp_path, "evaluate", "run=runs/mine", "sequences=4", "logger.wandb=disabled")
    ran(tmp_path, "generate", "run=runs/mine", "prompt=a red apple", "make=text", "samples=1")


def test_a_name_has_one_kind():
    with pytest.raises(ValueError, match="hash is taken"):
        register_router("hash")
    assert "nearest" not in KINDS
