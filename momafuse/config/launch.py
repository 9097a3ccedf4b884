"""What `python -m momafuse.launch` reads: all that train reads, how large a job, and what the cluster asks for."""

from __future__ import annotations

from dataclasses import dataclass

from momafuse.config.schema import Config


@dataclass(frozen=True)
class LaunchSettings:
    nodes: int
    gpus_per_node: int  # one rank a GPU; 0: one rank a node, on its CPUs
    time: str  # as sbatch reads it: minutes, hours:minutes:seconds, days-hours
    warning: int  # seconds before the end of the job in which ranks save and leave
    dry: bool  # print the script, submit nothing
    root: str  # job folders

    @property
    def ranks(self) -> int:
        return self.nodes * max(1, self.gpus_per_node)


@dataclass(frozen=True)
class ClusterConfig:
    """A file of `configs/cluster`."""

    sbatch: dict[str, str | int | None]  # options without their dashes; None: without a value
    srun: dict[str, str | int | None]
    setup: list[str]  # lines of the script before the ranks start
    python: str | None  # the interpreter of the ranks; None: the one that runs the command


@dataclass(frozen=True)
class LaunchConfig(Config):
    launch: LaunchSettings
    cluster: ClusterConfig
