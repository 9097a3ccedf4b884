"""A checkpoint of tensors that are made when it is their turn to be written, so that one of them at a time is in memory.

For weights that come from elsewhere (huggingface/); a run in training has all of its own in memory (saving.py). One process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from momafuse.checkpoint.saving import Keep, commit, described, make_empty, without_crc
from momafuse.checkpoint.store import step_name, unwritten, wrapped
from momafuse.errors import UserError


@dataclass(frozen=True)
class Promised:
    """A tensor to come, and what it will be."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def save_promised(root: Path, model: Mapping[str, Promised], state: dict[str, Any], config: str) -> Path:
    """Write `root/step_00000000` with the model's tensors by path; returns it.

    Raises UserError where the disk does not take it; whatever `make` raises goes on as it is. Nothing is left of it then.
    """
    final, partial = root / step_name(0), root / f".{step_name(0)}.partial"
    placeholders = {path: torch.empty(p.shape, dtype=p.dtype, device="meta") for path, p in model.items()}
    try:
        make_empty(partial)
        with without_crc():
            # a file for each: torch keeps the tensors of a file until all of it is written
            writer = FileSystemWriter(partial, single_file_per_rank=False)
            dcp_save({"model": placeholders}, storage_writer=writer, planner=_Planner(model), no_dist=True)
        commit(partial, final, described(partial, "__0_*.distcp"), json.dumps(state, indent=1), config, Keep(1))
    except (OSError, CheckpointException) as error:
        raise wrapped(error) or UserError(unwritten(final, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


class _Planner(DefaultSavePlanner):
    """Plans by placeholders without memory and makes each tensor when it is written."""

    def __init__(self, model: Mapping[str, Promised]) -> None:
        super().__init__()
        self._promised = {f"model.{path}": promised for path, promised in model.items()}

    def lookup_object(self, index: MetadataIndex) -> Any:
        promised = self._promised[index.fqn]
        made = promised.make()
        assert (tuple(made.shape), made.dtype) == (promised.shape, promised.dtype), index.fqn
        return made
