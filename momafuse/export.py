"""`python -m momafuse.export run=runs/x to=FOLDER`: a run as others read it (docs/checkpoints.md)."""

from __future__ import annotations

import time

from rich.filesize import decimal

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point, write
from momafuse.config.exchange import ExportConfig, check_export


@entry_point(
    "export",
    help="A run as safetensors with config.json, tokenizers and a card. format=chameleon is what transformers reads by itself; "
    "format=momafuse takes any model: for momafuse.load and, after `import momafuse.huggingface`, transformers' Auto classes.",
    schema=ExportConfig,
    check=check_export,
)
def main(job: Job[ExportConfig]) -> None:
    from momafuse.exchange import leaving  # after composing: a misspelt key should not wait for torch
    from momafuse.exchange.progress import reading
    from momafuse.exchange.run import Run

    c, started = job.config, time.perf_counter()
    run = Run.open(c.run)
    planned = leaving.plan(run, c)
    total = leaving.total_bytes(run, planned)
    with reading("tensors", total) as tick:
        files = leaving.write(run, planned, c, tick)
    write("".join(f"{file}\n" for file in files))
    if run.config.needs_auxiliary and not run.config.router.auxiliary:
        missing = f"+experiment=aux_routers model_from={c.run}"
        write(f"its routers see the future, and nothing can be asked of it without {missing}\n")
    write(f"{planned.form}: {len(planned.paths)} tensors, {decimal(total)} in {time.perf_counter() - started:.1f} s\n")


if __name__ == "__main__":
    main()
