"""`python -m momafuse.import_ from=FOLDER`: a run from weights of Chameleon or of a dense text model (docs/checkpoints.md)."""

from __future__ import annotations

import shlex
import time

from rich.filesize import decimal

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point, write
from momafuse.config.exchange import ImportConfig, check_import


@entry_point(
    "import_",
    help="A run from weights in the Hugging Face layout (Chameleon, Llama) or of the released Chameleon; safetensors only. "
    "It can be asked, scored, exported, and upcycled into any member of the family.",
    schema=ImportConfig,
    check=check_import,
)
def main(job: Job[ImportConfig]) -> None:
    from momafuse.exchange import arriving  # after composing: a misspelt key should not wait for torch
    from momafuse.exchange.progress import reading

    started = time.perf_counter()
    arrival = arriving.look(job.config)
    with reading("tensors", arrival.bytes) as tick:
        arriving.write(arrival, job.config, tick)
    f, run = arrival.found.foreign, arrival.folder
    ask = shlex.join(["python", "-m", "momafuse.generate", f"run={run}"])
    write(
        f"{run}: {f.kind}, {f.layers} layers of width {f.dim}, {decimal(arrival.bytes)} "
        f"in {time.perf_counter() - started:.1f} s\n"
        "next:\n"
        f"  {ask} prompt='...' make=text\n"
        f"  {arriving.upcycling_command(run)}\n"
    )


if __name__ == "__main__":
    main()
