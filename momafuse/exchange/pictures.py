"""The image tokenizer of a Chameleon, on its way in and out: a part of the model's own files, or a file beside them.

model.vqmodel.*      in the weights: what transformers knows of it, which has no decoder
vqgan.safetensors    beside them: all of it, decoder too, under the released names (vision/chameleon.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from momafuse.checkpoint.huggingface.importing import WHOLE_PICTURES, Pictures
from momafuse.checkpoint.huggingface.writing import save
from momafuse.tokens.text import TextTokenizer
from momafuse.vision.chameleon import PREFIX, Theirs, theirs, write
from momafuse.vision.chameleon_config import preprocessor_config, vq_config_of


@dataclass(frozen=True)
class ChameleonPictures:
    """One that leaves."""

    found: Theirs

    @classmethod
    def of(cls, tokenizer: str) -> ChameleonPictures:
        """Raises UserError for a tokenizer that Chameleon's layout cannot say."""
        return cls(theirs(tokenizer))

    @property
    def config(self) -> dict[str, Any]:
        return vq_config_of(self.found.arch)

    @property
    def decodes(self) -> bool:
        return len(self.found.without_decoder) < len(self.found.tensors)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((PREFIX + name, tensor) for name, tensor in self.found.without_decoder.items())

    def write_whole(self, folder: Path) -> None:
        save({name: tensor.contiguous() for name, tensor in self.found.tensors.items()}, folder / WHOLE_PICTURES)

    def processors(self, block: int) -> dict[str, dict[str, Any]]:
        """The files of transformers' processor; `block`: codes of a picture."""
        processor = {"processor_class": "ChameleonProcessor", "image_seq_length": block, "image_token": "<image>"}
        return {"preprocessor_config.json": preprocessor_config(self.found.arch), "processor_config.json": processor}


def arrive(pictures: Pictures, text: TextTokenizer, to: Path) -> None:
    """Writes the image tokenizer of a foreign checkpoint as a file of ours, codes in the order of their ids. Raises UserError
    where its tensors are not those of its architecture."""
    order = None if text.image_codes is None else torch.from_numpy(text.image_codes)
    write(to, pictures.arch, pictures.read, decoder=pictures.decodes, order=order)
