"""`python -m momafuse.lm_eval --model_args run=runs/x --tasks piqa`: lm-eval's own command, which knows momafuse's runs, and
with `--model hf --model_args pretrained=FOLDER` what momafuse.export wrote.

Needs the extra `eval`. A UserError ends as one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from momafuse.ending import USER_ERROR
from momafuse.errors import mendable


def main(argv: Sequence[str] | None = None) -> None:
    """All words are lm-eval's; `--model momafuse` need not be written."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        for registering in ("lm_eval.models", "momafuse.evaluation.harness"):  # its own first, or it leaves them out
            import_module(registering)
        if "--model" in words:
            import_module("momafuse.huggingface")  # what transformers calls exported ones
        from lm_eval.__main__ import cli_evaluate
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("lm_eval", "transformers"):
            raise
        extra = "eval" if package == "lm_eval" else "eval,hf"
        _end(f"{package.replace('_', '-')} is not installed; pip install 'momafuse[{extra}]'")
    if "--model_args" in words and "--model" not in words:
        at = 1 if words[0] == "run" else 0
        words[at:at] = ["--model", "momafuse"]
    sys.argv[1:] = words
    try:
        cli_evaluate()
    except Exception as error:
        if (line := mendable(error)) is None:
            raise
        _end(line)


def _end(line: str) -> None:
    print(f"momafuse: error: {line}", file=sys.stderr)
    raise SystemExit(USER_ERROR)


if __name__ == "__main__":
    main()
