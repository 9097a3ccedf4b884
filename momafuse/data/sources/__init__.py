"""Sources: named readers that hand over documents as a `datasets` dataset of one shape. Importing this registers the
shipped ones.
"""

from __future__ import annotations

from momafuse.data.sources import (
    annotated_pictures,
    captioned_folder,
    conversations,
    dataset,
    html_pages,
    obelics,
    picture_folder,
    spoken_folder,
    starter,
    text_files,
)
from momafuse.data.sources.registry import (
    FEATURE_NAMES,
    Item,
    Raw,
    Source,
    Stream,
    features,
    folder_fingerprint,
    in_memory,
    open_source,
    register,
    user_folder,
)
from momafuse.data.sources.splitting import held_out, split_of

__all__ = [
    "FEATURE_NAMES",
    "Item",
    "Raw",
    "Source",
    "Stream",
    "annotated_pictures",
    "captioned_folder",
    "conversations",
    "dataset",
    "features",
    "folder_fingerprint",
    "held_out",
    "html_pages",
    "in_memory",
    "obelics",
    "open_source",
    "picture_folder",
    "register",
    "split_of",
    "spoken_folder",
    "starter",
    "text_files",
    "user_folder",
]
