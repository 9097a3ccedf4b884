"""`python -m momafuse.lm_eval --model_args run=runs/x --tasks piqa`: lm-eval's own command, which knows momafuse's runs.

Needs the extra `eval`. A UserError ends as one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from momafuse.ending import USER_ERROR
from momafuse.errors import mendable


def main(argv: Sequence[str] | None = None) -> None:
    """All words are lm-eval's; `--model momafuse` need not be written."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        from lm_eval.__main__ import cli_evaluate

        import momafuse.evaluation.harness  # noqa: F401 -- registers the model
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        _end("lm-eval is not installed; pip install 'momafuse[eval]'")
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
