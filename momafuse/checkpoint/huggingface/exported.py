"""An exported model of any member of the family: what its folder says, read without the run that it came from.

    FOLDER/config.json          model_type momafuse: sections `model` and `router` as configs have them, the vocabulary, the
                                tokenizers by modality (a file of the folder, or a name that momafuse ships) and their
                                fingerprints, sequence_length, precision (what products are computed in: trainer.precision)
    FOLDER/model*.safetensors   `model.PATH`: parameters and buffers by their paths, as the checkpoint had them

Reads tensors straight into a model, one at a time. Does not write (exchange/), knows nothing of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from momafuse.checkpoint.huggingface.files import model_files, read_json
from momafuse.config.convert import convert
from momafuse.config.inherit import with_later_keys
from momafuse.config.schema import ModelConfig
from momafuse.config.validate_routers import check_kind
from momafuse.errors import UserError
from momafuse.models.transformer import Transformer
from momafuse.routing.config import RouterConfig
from momafuse.tokens.vocabulary import Vocabulary

Precision = Literal["auto", "fp32", "bf16"]
MODEL_TYPE, PREFIX, CONFIG = "momafuse", "model.", "config.json"


@dataclass(frozen=True)
class Description:
    """What config.json holds beside what transformers wants to know."""

    model: ModelConfig
    router: RouterConfig
    vocabulary: Vocabulary
    tokenizers: dict[str, str]
    fingerprints: dict[str, str]  # of the tokenizers: a file of other pieces or codes has another
    length: int
    precision: Precision

    def build(self) -> Transformer:
        """The model without memory; its routers choose causally."""
        with torch.device("meta"):
            v = self.vocabulary
            return Transformer(self.model, self.router, vocabulary_size=v.size, modality_names=v.names)


def is_exported(path: Path) -> bool:
    """Whether this is such a folder, and not one of a run."""
    return (path / CONFIG).is_file() and not (path / "config.yaml").is_file()


def describe(values: Mapping[str, Any], where: object) -> Description:
    """Of the values of config.json. Raises UserError, which names `where`."""
    if values.get("model_type") != MODEL_TYPE:
        kind = values.get("model_type")
        raise UserError(f"{where}: is of a model of type {kind}; make a run of it: python -m momafuse.import_ from=FOLDER")
    try:
        sections = with_later_keys({"model": values["model"], "router": values["router"]})
        found = Description(
            convert(ModelConfig, sections["model"], key="model"),
            convert(RouterConfig, sections["router"], key="router"),
            Vocabulary.from_dict(values["vocabulary"]),
            dict(values["tokenizers"]),
            dict(values["fingerprints"]),
            int(values["sequence_length"]),
            values["precision"],
        )
        if found.precision not in get_args(Precision):
            raise ValueError(f"precision {found.precision}")
        if outside := [name for name in found.tokenizers.values() if Path(name).name != name]:
            raise ValueError(f"{outside[0]} is no file of this folder")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: is no config.json of momafuse.export ({error}); export the run again") from error
    check_kind(found.router.kind)
    return found


def open_exported(folder: Path) -> Description:
    """Raises UserError where it cannot be read. Tokenizers are paths then, where they lie in the folder."""
    found = describe(read_json(folder / CONFIG), folder / CONFIG)
    for modality, name in found.tokenizers.items():
        file = folder / name.partition("@")[0]
        if file.suffix and not file.is_file():  # what momafuse ships goes by names without
            raise UserError(f"{file}: no such file; copy or download it again")
        if file.is_file():
            found.tokenizers[modality] = str(folder / name)
    return found


def read_weights(folder: Path, model: Transformer) -> None:
    """Fill a model that has memory. Raises UserError where names or shapes differ, before the first tensor is read."""
    files, state = model_files(folder), model.state_dict()
    wanted = {PREFIX + path: tuple(x.shape) for path, x in state.items()}
    stored = {name: s.shape for name, s in files.stored.items()}
    if wanted != stored:
        odd = sorted(name for name in {*wanted, *stored} if wanted.get(name) != stored.get(name))
        was = stored.get(odd[0], "missing")
        raise UserError(f"{folder}: {odd[0]} is {was}, by config.json {wanted.get(odd[0], 'not there')}; export the run again")
    with torch.no_grad():
        for path, x in state.items():
            x.copy_(files.read(PREFIX + path))
