"""A user's folder of pictures with captions, through the `imagefolder` loader of `datasets`.

Captions stand in `metadata.csv`, `metadata.jsonl` or `metadata.parquet` beside the pictures: a column `file_name` and
a column `text` or `caption`. A picture's key is its path inside the folder. Pictures are not decoded here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Source, features, folder_fingerprint, register, split_of, user_folder
from momafuse.errors import UserError

_CAPTIONS = ("text", "caption")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@register("captioned_folder")
def captioned_folder(config: SourceConfig) -> Source:
    """Pairs of picture and caption in the order of `datasets`. Raises UserError where there are no pictures or captions."""
    import datasets
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    folder = user_folder(config)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    suffixes = set(ImageFolder.EXTENSIONS)
    if not any(path.suffix.lower() in suffixes for path in paths):
        raise UserError(f"path={config.path}: no pictures in this folder; set it to a folder of pictures")
    if not any(path.name in _METADATA for path in paths):
        raise UserError(f"path={config.path}: no captions; write metadata.csv with the columns file_name,text into the folder")
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a local folder is nobody else's business
    with tempfile.TemporaryDirectory() as cache:
        try:
            loaded = datasets.load_dataset(
                "imagefolder", data_dir=str(folder), split="train", streaming=True, cache_dir=cache, drop_labels=True
            )
            columns = loaded.column_names or list(next(iter(loaded)))
        except (ValueError, StopIteration, OSError, datasets.exceptions.DatasetsError) as error:
            raise UserError(f"path={config.path}: cannot read the folder: {' '.join(str(error).split())}") from error
    caption = next((name for name in _CAPTIONS if name in columns), None)
    if caption is None:
        raise UserError(f"path={config.path}: the metadata has no column named text or caption; it has {', '.join(columns)}")

    def rows(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        keys = [Path(image["path"]).relative_to(folder).as_posix() for image in batch["image"]]
        return {
            "key": keys,
            "split": [split_of(key, number) for key, number in zip(keys, numbers, strict=True)],
            "segments": [
                [{"text": None, "image": image}, {"text": text or "", "image": None}]
                for image, text in zip(batch["image"], batch[caption], strict=True)
            ],
        }

    undecoded = loaded.cast_column("image", datasets.Image(decode=False))
    dataset = undecoded.map(rows, batched=True, with_indices=True, remove_columns=columns, features=features())
    return Source(dataset, folder_fingerprint(paths, folder))
