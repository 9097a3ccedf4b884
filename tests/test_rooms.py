"""A room imports only from floors below it (docs/design.md, section 3)."""

from __future__ import annotations

import ast
from pathlib import Path

import momafuse

PACKAGE = Path(momafuse.__file__).parent
ROOMS = (
    "sweeping", "launch", "web", "interface", "huggingface", "evaluation", "comparison", "exchange", "tokenizers", "training",
    "generation", "parallel", "checkpoint", "objectives", "reports", "models", "data", "config", "tokens", "speech", "vision",
    "vq", "routing", "kernels", "world", "ending", "files", "draws", "preemption", "errors",
)  # fmt: skip
ENTRY_POINTS = {
    "train", "generate", "demo", "prepare", "train_tokenizer", "describe", "evaluate", "compare", "lm_eval", "export",
    "import_", "sweep",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {parts[1] for name in names if (parts := name.split("."))[0] == "momafuse" and len(parts) > 1}


def test_imports_only_go_down():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ENTRY_POINTS or room == "__init__":
            continue
        below = ROOMS[ROOMS.index(room) :]
        wrong += [f"{path.relative_to(PACKAGE)} imports {other}" for other in imported(path) if other not in below]
    assert not wrong


def test_nothing_imports_an_entry_point():
    for path in PACKAGE.rglob("*.py"):
        assert not imported(path) & ENTRY_POINTS, path


def test_models_and_routing_know_no_ranks_and_no_devices_by_name():
    for room in ("models", "routing", "objectives"):
        for path in (PACKAGE / room).glob("*.py"):
            text = path.read_text()
            assert "torch.distributed" not in text, path
            assert "cuda" not in text, path


def test_files_and_functions_stay_readable():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
