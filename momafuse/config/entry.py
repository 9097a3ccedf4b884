"""The command line of an entry point: `main(job)` becomes a program with overrides, sweeps, help and one-line errors.

    @entry_point("train", help="...")
    def main(job: Job) -> None: ...

A UserError ends as one line on stderr and exit code 2, also where Hydra complains; so does a disk that is full or may
not be written. Ctrl-C ends as one line and exit code 130, being asked to leave (preemption.py) with 75. Anything else is a
bug and shows its traceback. One of many processes under torchrun ends as ending.py says: a mistake is one line, not one a
rank. Hydra's own runner is not used: it makes folders, configures logging and prints its complaints itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from momafuse.config.compose import Check, Job, compose_jobs, config_dir, group_options
from momafuse.config.schema import Config
from momafuse.ending import BUG, USER_ERROR, first_to_say, leave, tagged
from momafuse.errors import RankError, UserError, mendable
from momafuse.preemption import INTERRUPTED, STOPPED, Preempted

_KEYS = """  run.name run.root run.seed           the run's folder ROOT/NAME, and its random numbers
  trainer.max_steps trainer.max_tokens how long; the same command again goes on
  trainer.global_batch                 sequences a step; trainer.micro_batch: at once
  data.path                            a prepared corpus
  data.image_share                     share of image tokens in every sequence, or `experts`
  data.share.NAME                      that of another modality, e.g. data.share.speech=0.2
  data.stages=[..]                     other weights later, e.g. '[{from: 0.8, weights: {texts: 0.5}}]'
  resume=auto|none|PATH                where to go on from
  upcycle=PATH                         a run or checkpoint of another model to start from
  logger.wandb=offline|online|disabled"""


_OWN_KEYS = {
    "launch": """  launch.nodes launch.gpus_per_node     how large a job; one rank a GPU
  launch.time launch.warning           its time, and the seconds at its end in which ranks save and leave
  launch.dry=true                      print the script, submit nothing""",
    "sweep": """  sweep.root                           the folder of its runs: runs/NAME
  sweep.only=[..] sweep.seeds=[..]     some of its runs, other seeds
  sweep.dry=true                       print every command and what is complete
  sweep.slurm=true                     arrays of jobs, of the size that launch.* and cluster=NAME say
  sweep.stored=FOLDER                  metrics that count as runs; sweep.store=true copies them there
  sweep.auxiliary=true|false           auxiliary routers afterwards; sweep.auxiliary_words=[..]: of these runs alone""",
    "prepare": """  show=plan                            documents, shares and passes of each source in a run of these words
  show=sample                          the same, and a page of packed sequences as the model sees them""",
}


# The words of a command line and the user's folder -> a primary config and its schema.
Meant = Callable[[Sequence[str], Path | None], tuple[str, Any]]


def entry_point(
    primary: str,
    help: str,
    *,
    schema: Any = Config,
    check: Check | None = None,
    together: bool = False,
    meant: Meant | None = None,
) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Turns `main(job)` into a program that composes `configs/PRIMARY.yaml` into `schema` and calls it for every job.
    With `together` it is called once, with the list of all jobs.

    The program reads sys.argv (or the words it is called with) and leaves by SystemExit only when it fails. `check` is
    called with every config before the first job runs and may raise UserError. `meant` tells by the words what they compose
    into, where a program takes more than one kind of config.
    """

    def decorate(job_main: Callable[[Any], None]) -> Callable[..., None]:
        def program(argv: Sequence[str] | None = None) -> None:
            try:
                args = _parser(primary, help).parse_intermixed_args(argv)
                if args.help:
                    write(help_text(primary, help, args.config_dir) + "\n")
                    return
                words, user_dir = args.overrides, args.config_dir
                into = (primary, schema) if meant is None else meant(words, user_dir)
                jobs = compose_jobs(words, *into, user_dir=user_dir, multirun=args.multirun, check=check)
                if together and args.cfg is None:
                    job_main(jobs)
                    return
                for number, job in enumerate(jobs):
                    _run(job, number, len(jobs), job_main, show=args.cfg is not None)
            except RankError as end:
                leave(end)
            except KeyboardInterrupt:
                _end(STOPPED, INTERRUPTED)
            except Preempted as end:
                _end(f"momafuse: {end}", end.code)
            except Exception as error:
                if (line := mendable(error)) is not None:
                    _end(f"momafuse: error: {line}", USER_ERROR)
                if "RANK" in os.environ:
                    leave(RankError(tagged(error, int(os.environ["RANK"])), BUG, repr(error)))
                raise

        program.__doc__, program.__name__ = help, job_main.__name__
        return program

    return decorate


def help_text(primary: str, about: str, user_dir: Path | None = None) -> str:
    """What `--help` prints: what the program does, the groups with their files, the most used keys, examples."""
    command = f"python -m momafuse.{primary}"
    groups = group_options(user_dir)
    chosen = _chosen(primary)
    usage = "[GROUP=FILE ...] [KEY=VALUE ...]" if chosen else "KEY=VALUE ..."
    lines = [f"usage: {command} {usage}", "", about.strip(), "", "groups (* = default):" if chosen else "keys:"]
    lines += [] if chosen else [f"  {line}" for line in _keys(primary)]
    for group, file in chosen.items():
        options = [o + "*" * (o == file) for o in groups.get(group, [])]
        lines.append(f"  {group + '=':<13} {'  '.join(options)}")
    added = [g for g in ("experiment", "debug") if g in groups and not (primary == "sweep" and g == "experiment")]
    added = added if "model" in chosen else []
    lines += [f"  {'+' + group + '=':<13} {'  '.join(groups[group])}" for group in added]
    lines += (
        ["", "keys used most:", *([_OWN_KEYS[primary]] if primary in _OWN_KEYS else []), *_keys_of_runs(primary)]
        if "model" in chosen
        else []
    )
    lines += [
        "",
        "flags:",
        "  --cfg job            print the composed config and every key, and stop",
        "  -m, --multirun       run once for each of several values: KEY=0,1,2",
        "  --config-dir FOLDER  your own groups and experiments: FOLDER/experiment/mine.yaml",
        "",
        "examples:",
        *(f"  {command} {words}".rstrip() for words in _examples(primary, bool(added))),
    ]
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists what there is")


def _parser(primary: str, about: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"python -m momafuse.{primary}", description=about, add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job"])
    parser.add_argument("-cd", "--config-dir", type=Path)
    return parser


def _end(line: str, code: int) -> NoReturn:
    if "RANK" in os.environ:
        leave(RankError(line if first_to_say(line) else "", code))
    print(line, file=sys.stderr)
    raise SystemExit(code) from None


def _run(job: Job[Any], number: int, jobs: int, job_main: Callable[[Job[Any]], None], *, show: bool) -> None:
    if jobs > 1:
        print(f"# {number + 1}/{jobs}: {' '.join(job.overrides)}", file=sys.stderr, flush=True)
    if show:
        write(job.yaml)
    else:
        job_main(job)


def write(text: str) -> None:
    """Prints for a reader who may stop early: `--help | head` is no error."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains


def _chosen(primary: str) -> dict[str, str]:
    """Group -> the file that the defaults list of a primary config chooses, its parents' too."""
    chosen: dict[str, str] = {}
    loaded = OmegaConf.to_container(OmegaConf.load(config_dir() / f"{primary}.yaml"))
    assert isinstance(loaded, dict)
    for entry in loaded.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            chosen |= _chosen(entry)
        elif isinstance(entry, dict):
            chosen |= {str(group): str(file) for group, file in entry.items()}
    return chosen


def _keys_of_runs(primary: str) -> list[str]:
    """Those of train; a sweep names its runs itself."""
    return [line for line in _KEYS.splitlines() if primary != "sweep" or not line.startswith(("  run.", "  resume"))]


def _keys(primary: str) -> list[str]:
    """Of a file without groups its own lines, which say what each key is."""
    lines = (config_dir() / f"{primary}.yaml").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def _examples(primary: str, experiments: bool) -> list[str]:
    if primary == "evaluate":
        return ["run=runs/demo-aux_routers", "-m run=runs/x/checkpoints/step_00000048,runs/x routing=training"]
    if primary == "compare":
        return [
            "runs='[runs/dense,runs/moma_4t4i,runs/moma_4t4i-aux_routers]' baseline=dense",
            "runs='[runs/dense-0,runs/dense-1,runs/mot-0,runs/mot-1]' baseline=dense out=runs/mot_against_dense",
        ]
    if primary == "generate":
        return [
            "run=runs/demo-aux_routers 'prompt=a red apple:' make=image samples=8 guidance=4",
            "run=runs/demo-aux_routers 'prompt=<image:cat.png> what is this?' make=text",
        ]
    if primary == "demo":
        return ["run=runs/demo-aux_routers", "run=runs/dense port=8000 device=cpu"]
    if primary == "import_":
        return [
            "from=chameleon-7b",
            "from=released/models/7b name=chameleon-7b",
            "from=llama image_tokenizer=starter_vq_v2 seed=1",
        ]
    if primary == "export":
        return [
            "run=runs/moma_4t4i-aux_routers to=moma",
            "run=runs/moma_4t4i-aux_routers to=moma-text text_only=true dtype=bf16",
            "run=runs/chameleon-7b to=chameleon format=chameleon shard_gb=5",
        ]
    if not experiments:
        return [f"{group}={file}" for group, file in _chosen(primary).items()]
    if primary == "prepare":
        return [
            "data=starter",
            "data=captioned_folder data.sources.pictures.path=PICTURES '~data.sources.texts'",
            "data=starter show=sample",
        ]
    if primary == "sweep":
        return [
            "sweep=iso_flops",
            "sweep=leave_one_out size=90m data.path=CORPUS sweep.seeds=[0] sweep.slurm=true launch.nodes=4 sweep.dry=true",
            "sweep=routers size=micro sweep.only=[moe_8x,moe_top2] sweep.auxiliary=false sweep.dry=true",
        ]
    if primary == "describe":
        return [
            "+experiment=moma_4t4i size=1_4b",
            "-m +experiment=mod_dense,mod_moma_4t4i size=90m_mod format=json",
            "tokenizer=vqgan_512",
        ]
    if primary == "launch":
        return [
            "+experiment=moma_4t4i size=1_4b launch.nodes=8 launch.gpus_per_node=8 launch.time=24:00:00",
            "-m +experiment=dense,moma_4t4i size=90m cluster=example launch.dry=true",
        ]
    return [
        "+experiment=moma_4t4i",
        "+experiment=dense size=micro trainer=cpu",
        "-m +experiment=dense,moma_4t4i run.seed=0,1",
    ]
