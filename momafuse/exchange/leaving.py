"""A run as a folder for others: weights in safetensors, config.json, tokenizers, a card with the run's figures.

    chameleon   what `transformers` reads by itself: dense, QK-norm of LayerNorms, a VQGAN as image tokenizer
    momafuse    any model, for `momafuse.load` and `import momafuse.huggingface` (checkpoint/huggingface/exported.py)

With `text_only` the vocabulary has text alone, and groups, routers and untied weights of other modalities stay behind; ids
keep their places, and what the model says of text is what the whole one says. One file's worth of tensors is in memory at a
time. The folder is written aside and renamed. Does not read foreign weights (arriving.py).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import momafuse
from momafuse.checkpoint.huggingface.exported import CONFIG, MODEL_TYPE, PREFIX, Description
from momafuse.checkpoint.huggingface.layouts import Foreign, config_json, foreign_of, theirs
from momafuse.checkpoint.huggingface.writing import write_weights
from momafuse.config.convert import plain
from momafuse.config.exchange import ExportConfig, refuse_existing
from momafuse.errors import UserError
from momafuse.exchange.card import card
from momafuse.exchange.pictures import ChameleonPictures
from momafuse.exchange.run import Run, of_text, text_alone
from momafuse.files import folder_aside, write_aside
from momafuse.tokens.vocabulary import TEXT, Vocabulary
from momafuse.tokens.writing import to_tokenizer_json, tokenizer_config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GB = 1e9
Form = Literal["chameleon", "momafuse"]
Tick = Callable[[int], object]


@dataclass(frozen=True)
class Planned:
    """What an export will write: decided before anything is read or written."""

    form: Form
    vocabulary: Vocabulary
    paths: dict[str, tuple[int, ...]]  # of the tensors that leave
    config: dict[str, Any]  # config.json
    text: bytes  # tokenizer.json: ids of text alone are those of the whole
    foreign: Foreign | None  # of a chameleon
    pictures: ChameleonPictures | None


def plan(run: Run, c: ExportConfig) -> Planned:
    """Raises UserError where the run cannot become what is asked for."""
    why = ""
    if c.format != "momafuse" and not c.text_only:
        try:
            return _chameleon(run, c)
        except UserError as error:
            why = str(error)
    if c.format == "chameleon":
        raise UserError(f"format=chameleon: {why}")
    return _momafuse(run, c)


def _chameleon(run: Run, c: ExportConfig) -> Planned:
    if run.vocabulary.names != (TEXT, "image"):
        raise UserError(f"the run has {' and '.join(run.vocabulary.names)}; a Chameleon has text and image")
    foreign = foreign_of(run.config.model, "chameleon", run.rows, run.config.data.sequence_length)
    pictures = ChameleonPictures.of(run.config.tokenizer["image"])
    text = to_tokenizer_json(run.text, run.vocabulary)
    own = {"vq_config": pictures.config, "vocabulary_map": json.loads(text)["model"]["vocab"]}
    config = config_json(foreign) | own | _ids(run) | _dtype(run, c)
    return Planned("chameleon", run.vocabulary, run.tensors.shapes(), config, text, foreign, pictures)


def _momafuse(run: Run, c: ExportConfig) -> Planned:
    model = of_text(run.config.model) if c.text_only else run.config.model
    vocabulary = text_alone(run.vocabulary) if c.text_only else run.vocabulary
    tokenizers = {m: name for m, name in run.config.tokenizer.items() if m in vocabulary.names}
    length, precision = run.config.data.sequence_length, run.config.trainer.precision
    prints = {m: run.text.fingerprint if m == TEXT else run.codecs[m].fingerprint for m in tokenizers}
    description = Description(model, run.config.router, vocabulary, tokenizers, prints, length, precision)
    stored = run.tensors.shapes()
    paths = {path: tuple(x.shape) for path, x in description.build().state_dict().items()}
    paths |= dict.fromkeys(("embedding.weight", "head.weight"), (run.rows, model.dim))
    assert all(stored.get(path) == shape for path, shape in paths.items()), "a run's checkpoint is that of its config"
    config = {
        "architectures": ["MomafuseForCausalLM"],
        "model_type": MODEL_TYPE,
        "momafuse_version": momafuse.__version__,
        "model": plain(model) | {"vocabulary_size": run.rows},
        "router": plain(run.config.router),
        "vocabulary": vocabulary.to_dict(),
        "tokenizers": {m: local_name(m, name) for m, name in tokenizers.items()},
        "fingerprints": prints,
        "sequence_length": length,
        "precision": precision,
        "vocab_size": run.rows,
        "hidden_size": model.dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "max_position_embeddings": length,
        "use_cache": False,
        **_ids(run),
        **_dtype(run, c),
    }
    return Planned("momafuse", vocabulary, paths, config, to_tokenizer_json(run.text, run.vocabulary), None, None)


def _ids(run: Run) -> dict[str, int]:
    s = run.vocabulary.specials
    return {"bos_token_id": s.bos, "eos_token_id": s.eos, "pad_token_id": s.pad}


def _dtype(run: Run, c: ExportConfig) -> dict[str, str]:
    dtype = DTYPES.get(c.dtype) or run.tensors.dtypes()["embedding.weight"]
    return {"dtype": str(dtype).removeprefix("torch.")}


def write(run: Run, planned: Planned, c: ExportConfig, tick: Tick) -> list[Path]:
    """Writes the folder; `tick` gets the bytes of each tensor that was read. Returns its files."""
    to = Path(c.to).expanduser()
    refuse_existing(c)
    with folder_aside(to) as aside:
        files = write_weights(aside, _tensors(run, planned, c, tick), c.shard_gb * GB)
        parameters = sum(math.prod(shape) for shape in planned.paths.values())
        _texts(aside, run, planned, card(run, planned.form, parameters, planned.vocabulary.names))
        _tokenizers(aside, run, planned)
    return [to / file.name for file in files]


def total_bytes(run: Run, planned: Planned) -> int:
    """Of the tensors that are read."""
    dtypes = run.tensors.dtypes()
    return sum(math.prod(shape) * dtypes[path].itemsize for path, shape in planned.paths.items())


def _tensors(run: Run, planned: Planned, c: ExportConfig, tick: Tick) -> Iterator[tuple[str, Tensor]]:
    dtype = DTYPES.get(c.dtype)
    for path in planned.paths:
        read = run.tensors.weight(path)
        tick(read.nbytes)
        tensor = read if dtype is None else read.to(dtype)
        if planned.foreign is None:
            yield PREFIX + path, tensor
        else:
            yield from theirs(planned.foreign, path, tensor)
    if planned.pictures is not None:
        yield from planned.pictures.tensors()


def _texts(folder: Path, run: Run, planned: Planned, words: str) -> None:
    alone = {} if planned.form == "chameleon" else {"use_cache": False}
    texts: dict[str, Mapping[str, Any]] = {CONFIG: planned.config, "generation_config.json": _ids(run) | alone}
    if planned.pictures is not None:
        texts |= planned.pictures.processors(run.vocabulary.modality("image").block)
    for name, values in texts.items():
        write_aside(folder / name, json.dumps(values, indent=1))
    write_aside(folder / "README.md", words)


def _tokenizers(folder: Path, run: Run, planned: Planned) -> None:
    """Text's as transformers reads it, and in momafuse's form files of the run's own."""
    (folder / "tokenizer.json").write_bytes(planned.text)
    words = tokenizer_config(planned.text, run.config.data.sequence_length)
    write_aside(folder / "tokenizer_config.json", json.dumps(words, indent=1))
    if planned.form == "momafuse":
        for modality in planned.config["tokenizers"]:
            name = run.config.tokenizer[modality]
            if (source := Path(name.partition("@")[0])).is_file():
                shutil.copyfile(source, folder / local_name(modality, name).partition("@")[0])
    elif planned.pictures is not None and planned.pictures.decodes:
        planned.pictures.write_whole(folder)


def local_name(modality: str, name: str) -> str:
    """What the exported folder calls a tokenizer: a file of the run's, or the name of one that momafuse ships."""
    file, at, side = name.partition("@")
    return f"{modality}{Path(file).suffix}{at}{side}" if Path(file).is_file() else name
