"""The tensors of a checkpoint one at a time, whatever number of ranks wrote it, without a model to read them into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load

from momafuse.checkpoint.store import reason, wrapped
from momafuse.errors import UserError

Shape = tuple[int, ...]
T = TypeVar("T")
MODEL, MOMENTS = "model.", ("exp_avg", "exp_avg_sq", "step")


class StoredTensors:
    """The tensors of a checkpoint, read one at a time. Raises UserError where the disk does not give them."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._reader = _Reader(checkpoint)
        stored = self._reading(self._reader.read_metadata).state_dict_metadata
        self._stored = {key: x for key, x in stored.items() if isinstance(x, TensorStorageMetadata)}

    def shapes(self) -> dict[str, Shape]:
        """Path -> shape of the model's parameters and buffers."""
        return {key.removeprefix(MODEL): tuple(x.size) for key, x in self._stored.items() if key.startswith(MODEL)}

    def dtypes(self) -> dict[str, torch.dtype]:
        """The same paths -> how they are stored."""
        return {key.removeprefix(MODEL): x.properties.dtype for key, x in self._stored.items() if key.startswith(MODEL)}

    def weight(self, path: str) -> Tensor:
        """The whole parameter, on the CPU."""
        return self._read(MODEL + path)

    def moments(self, path: str) -> dict[str, Tensor]:
        """AdamW's state of a parameter; empty where it did not learn."""
        keys = {name: f"optimizer.state.{path}.{name}" for name in MOMENTS}
        return {name: self._read(key) for name, key in keys.items() if key in self._stored}

    def _read(self, key: str) -> Tensor:
        stored = self._stored[key]
        tensor = torch.empty(stored.size, dtype=stored.properties.dtype)
        self._reading(lambda: dcp_load({key: tensor}, storage_reader=self._reader, no_dist=True))
        return tensor

    def _reading(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (OSError, CheckpointException) as error:
            raise wrapped(error) or UserError(f"checkpoint {self._checkpoint}: cannot be read ({reason(error)})") from error


class _Reader(FileSystemReader):
    """Reads the metadata once: it grows with the model, and DCP wants it for every tensor."""

    _metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._metadata = super().read_metadata(*args, **kwargs)
        return self._metadata
