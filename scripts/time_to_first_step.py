"""Seconds from the command to the end of the first step of a run, as a user waits for it; the run is then killed.

    python scripts/time_to_first_step.py +experiment=moma_4t4i size=435m         the words of momafuse.train

The run gets a folder of its own, which is deleted. A corpus that is missing is prepared within the time, and what
torch.compile has not in its cache is compiled: start it twice to see what a second start takes.
Prints JSON {"seconds", "overrides"}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLL = 0.05  # seconds


def first_step(words: list[str]) -> float | None:
    """Seconds; None where the run ended before its first step."""
    with tempfile.TemporaryDirectory() as root:
        metrics = Path(root) / "first" / "metrics.jsonl"
        command = [
            sys.executable,
            "-m",
            "momafuse.train",
            *words,
            f"run.root={root}",
            "run.name=first",
            "logger.wandb=disabled",
        ]
        begin = time.perf_counter()
        run = subprocess.Popen(command, stdout=sys.stderr)
        try:
            while run.poll() is None:
                if metrics.exists() and metrics.read_text().count("\n"):
                    return time.perf_counter() - begin
                time.sleep(POLL)
        finally:
            run.kill()
            run.wait()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="as for momafuse.train")
    args = parser.parse_args()
    seconds = first_step(args.overrides)
    if seconds is None:
        raise SystemExit("time_to_first_step: error: the run ended before its first step; what it said stands above")
    print(json.dumps({"seconds": round(seconds, 2), "overrides": args.overrides}))


if __name__ == "__main__":
    main()
