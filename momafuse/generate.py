"""`python -m momafuse.generate run=runs/x prompt="a red apple:" make=image`: what a trained run makes of prompts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from momafuse.config.compose import Job, import_plugins
from momafuse.config.entry import entry_point, write
from momafuse.config.generate import GenerateConfig, check
from momafuse.errors import UserError

if TYPE_CHECKING:
    from momafuse.interface import Model


@entry_point(
    "generate",
    help="Text, pictures and whatever else a run has learned, behind prompts. make=image gives one picture for each, make=text "
    "text, make=mixed both. A run with routers needs the auxiliary ones of +experiment=aux_routers.",
    schema=GenerateConfig,
    check=check,
)
def main(job: Job[GenerateConfig]) -> None:
    from momafuse.interface import Model  # after composing: a misspelt key should not wait for torch

    config = job.config
    import_plugins(config.plugins)
    prompts = [config.prompt] if config.prompt is not None else read_prompts(Path(config.prompts or "").expanduser())
    model = Model.load(config.run, config.device)
    folder = Path(config.out).expanduser() if config.out else _run_folder(Path(config.run).expanduser()) / "generated"
    write(_generate(config, model, prompts, folder))


def read_prompts(path: Path) -> list[str]:
    """One a line, empty lines left out. Raises UserError for a file that cannot be read or holds none."""
    try:
        prompts = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts={path}: cannot be read as UTF-8 text ({error}); give a file of one prompt a line") from error
    if not prompts:
        raise UserError(f"prompts={path}: holds no prompt; write one a line")
    return prompts


def _generate(c: GenerateConfig, model: Model, prompts: list[str], folder: Path) -> str:
    """Makes, writes and prints; returns the last lines."""
    from rich.console import Console
    from rich.progress import Progress

    from momafuse.generation.results import Results
    from momafuse.generation.sampling import Sampling

    sampling = Sampling(c.temperature, c.top_k, c.top_p, c.min_p, c.guidance, c.seed)
    console = Console(stderr=True)
    tokens, started = 0, time.perf_counter()
    about = f"make={c.make} temperature={c.temperature} top_k={c.top_k} top_p={c.top_p} min_p={c.min_p} guidance={c.guidance}"

    def tick(count: int) -> None:
        nonlocal tokens
        tokens += count

    found = model.generator.make(prompts, c.make, sampling, samples=c.samples, most=c.max_tokens, batch=c.batch, tick=tick)
    with (
        Results(folder, model.lm.codecs, f"{c.run}: generated", f"{about} seed={c.seed}") as results,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("documents", total=len(prompts) * c.samples)
        for several in found:
            for sample, made in enumerate(several):
                lines = results.add(made, sample)
                progress.advance(bar)
                write(f"{made.prompt}\n" + "".join(f"    {line}\n" for line in lines))
    seconds = time.perf_counter() - started
    return f"{tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} a second\n{folder / 'index.html'}\n"


def _run_folder(run: Path) -> Path:
    """Of a run or of one of its checkpoints."""
    return run.parent.parent if run.parent.name == "checkpoints" else run


if __name__ == "__main__":
    main()
