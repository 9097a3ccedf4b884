"""A table of rows that `datasets` can open: a set of the hub, files by a packaged builder, or a folder.

    path     a set's name (HuggingFaceFW/fineweb-edu), a builder (webdataset, parquet, json, imagefolder ..) or a local folder
    options  of datasets.load_dataset: name, data_files, data_dir, revision .., `split` (train) and `streaming` (true)

Rows are streamed, so local files leave nothing in the user's cache; with streaming=false a set is downloaded into it first, as
`datasets` does. Whether the hub can be reached and knows the set is asked once, with a time limit, since `datasets` itself
tries for minutes. What goes wrong while a set is opened is one line with the remedy. Makes no documents (dataset.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import folder_fingerprint
from momafuse.errors import UserError

TIMEOUT = 10.0  # seconds that the hub has to answer
_TOLD = 300  # characters of a library's message that are passed on
_PLACES = ("data_files", "data_dir")
_REMEDIES = (  # by what the message of `datasets` says
    ("offline", "it is not in the cache; unset HF_HUB_OFFLINE where there is a network"),
    ("gated", "ask for access on its page, then log in (hf auth login) or set HF_TOKEN"),
    (
        "scripts are no longer supported",
        "it is a program, which is not run; options.revision=refs/convert/parquet may have files",
    ),
    ("doesn't exist on the hub", "check the name; log in (hf auth login) where it is private"),
    ("split", "choose one by options.split"),
    ("config name|config.* not found", "choose one by options.name"),
    ("unable to find|any data file", "check path and options.data_files"),
)


@dataclass(frozen=True)
class Table:
    """`folder`: where local files lie, from which paths in them begin; `size`: their bytes, None where some lie elsewhere."""

    dataset: Any  # datasets.Dataset or IterableDataset
    columns: tuple[str, ...]
    fingerprint: str
    folder: Path
    size: int | None

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows in the set's order with undecoded pictures. What goes wrong on the way is an OSError or a ValueError."""
        known = self.dataset.features is not None
        rows = iter(_undecoded(self.dataset, columns) if known else self.dataset)
        while True:
            try:
                row = next(rows, None)
            except (OSError, ValueError):
                raise
            except Exception as error:  # of whatever transport the files come by
                raise OSError(_told(error)) from error
            if row is None:
                return
            yield row


def load(config: SourceConfig) -> Table:
    """The table that `config` names. Raises UserError where there is none."""
    if config.path is None:
        raise UserError("path=null: the reader dataset needs one; give a set of the hub, a folder, webdataset, parquet or json")
    path = str(Path(config.path).expanduser()) if config.path.startswith("~") else config.path
    hub = _on_hub(path)
    with _explained(config):
        builder, dataset = _opened(config, path, hub)
        columns = tuple(dataset.features or next(iter(dataset), ()))
        files = _files(builder)
        local = [Path(file) for file in files if "://" not in file]
        folder = Path(path).resolve() if Path(path).is_dir() else _common(local)
        told: dict[str, Any] = {key: value for key, value in config.options.items() if key != "streaming"}
        if hub:
            content = [path, builder.hash, told]  # the hash is that of the commit
        else:
            told = {key: value for key, value in told.items() if key not in _PLACES}
            content = [folder_fingerprint(local, folder), _elsewhere(builder), told]
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    size = sum(file.stat().st_size for file in local) if len(local) == len(files) and not hub else None
    return Table(dataset, columns, fingerprint, folder, size)


def _opened(config: SourceConfig, path: str, hub: bool) -> tuple[Any, Any]:
    """The builder and its split. Raises UserError, and whatever `datasets` does."""
    options = dict(config.options)
    split, streaming = str(options.pop("split", "train")), options.pop("streaming", True)
    options |= {key: _expanded(options[key]) for key in _PLACES if key in options}
    named = ", ".join(f"options.{key}={options[key]}" for key in _PLACES if key in options)
    if _is_builder(path) and not named:  # it would read the working folder
        raise UserError(f"path={path}: no files are named; give options.data_files=FILES")
    if hub:
        _ask_hub(path, options.get("revision"))
    from datasets import load_dataset_builder

    with TemporaryDirectory() as aside:
        if streaming and not hub:
            options["cache_dir"] = aside  # which is made, even where nothing comes to lie in it
        builder = load_dataset_builder(path, **options)
        if named and not _files(builder):
            raise UserError(f"path={config.path}: no files are where {named} says; check it")
        if streaming:
            return builder, builder.as_streaming_dataset(split)
        builder.download_and_prepare()
        return builder, builder.as_dataset(split)


def _files(builder: Any) -> list[str]:
    return [file for files in (builder.config.data_files or {}).values() for file in files]


def _common(files: Sequence[Path]) -> Path:
    """The folder that all of the files lie in."""
    return Path(os.path.commonpath([file.parent for file in files])) if files else Path.cwd()


def _elsewhere(builder: Any) -> list[Any]:
    """Files that are not local, with what their hosts say of their state; those of the hub have a commit in their name."""
    states = [state for files in (builder.config.data_files or {}).values() for state in files.origin_metadata]
    return [[file, state] for file, state in zip(_files(builder), states, strict=True) if "://" in file]


def _undecoded(dataset: Any, columns: Sequence[str]) -> Any:
    """With these columns alone: others might hold pictures or sounds to decode."""
    from datasets import Image, List

    dataset = dataset.select_columns(list(columns))
    for column, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            dataset = dataset.cast_column(column, List(Image(decode=False)))
    return dataset


def _expanded(files: Any) -> Any:
    if isinstance(files, list):
        return [_expanded(file) for file in files]
    return str(Path(files).expanduser()) if str(files).startswith("~") else files


def _on_hub(path: str) -> bool:
    return not _is_builder(path) and not Path(path).is_dir() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is not None


def _is_builder(path: str) -> bool:
    return path.isidentifier() and find_spec(f"datasets.packaged_modules.{path}") is not None


def _ask_hub(path: str, revision: Any) -> None:
    """Raises UserError where the hub cannot be reached or has no such set; asks nothing where HF_HUB_OFFLINE is set."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().dataset_info(path, revision=revision, timeout=TIMEOUT)
    except RevisionNotFoundError as error:
        raise UserError(f"path={path}: no revision {revision} of it on the hub; check options.revision") from error
    except RepositoryNotFoundError as error:
        problem = "no such folder, and no such set on the hub that you may read"
        raise UserError(f"path={path}: {problem}; check the name, or log in (hf auth login) where it is private") from error
    except Exception as error:  # each version of the library has its own
        raise UserError(
            f"path={path}: no such folder, and the hub cannot be reached ({_told(error)}); check the network, set "
            "HF_HUB_OFFLINE=1 where the set is in the cache, or give files by path=parquet options.data_files=FILES"
        ) from error


@contextmanager
def _explained(config: SourceConfig) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # `datasets` and what it calls raise many kinds
        told = _told(error)
        remedies = (remedy for words, remedy in _REMEDIES if re.search(words, told, re.IGNORECASE))
        remedy = next(remedies, "check path and options, which are those of datasets.load_dataset")
        raise UserError(f"path={config.path}: {told}; {remedy}") from error


def _told(error: BaseException) -> str:
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__:  # which says nothing itself
        error = error.__cause__
    told = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return told if len(told) <= _TOLD else f"{told[:_TOLD]} .."
