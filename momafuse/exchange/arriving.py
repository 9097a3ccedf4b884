"""A run from a foreign checkpoint: its weights as a first checkpoint, its tokenizers, and a size for runs that begin with it.

    ROOT/NAME/checkpoints/step_00000000    the weights as they were, no optimizer
    ROOT/NAME/tokenizers/                  text.json and, of a Chameleon, image.safetensors: files of this run
    ROOT/NAME/configs/size/NAME.yaml       `--config-dir ROOT/NAME/configs size=NAME`: shapes, attention and tokenizers

A text model gets ids for an image tokenizer's codes and their frame behind its own. The folder is written aside and renamed.
Reads no weight before everything was found to fit (checkpoint/huggingface/importing.py).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from momafuse.checkpoint.huggingface.files import read_json
from momafuse.checkpoint.huggingface.importing import Found, find, from_file, promised
from momafuse.checkpoint.streaming import save_promised
from momafuse.config.compose import Job, compose
from momafuse.config.exchange import ImportConfig
from momafuse.config.results import sanitise
from momafuse.data.codecs import load_codecs, vocabulary_of
from momafuse.errors import UserError
from momafuse.exchange.pictures import arrive
from momafuse.files import folder_aside, write_aside
from momafuse.models.transformer import Transformer
from momafuse.tokens.names import added_ids, vocabulary_ids
from momafuse.tokens.naming import with_codes
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary
from momafuse.training.folder import REVISION, revision
from momafuse.vision.tokenizer import KIND, ImageTokenizer

NAMED = 0.9  # share of a text model's rows that its tokenizer must name: the rest is padding
LONGEST = 4096  # tokens of a sequence in the size that is written
Tick = Callable[[int], object]


@dataclass(frozen=True)
class Arrival:
    """What was found, and the run that it becomes; nothing is written yet."""

    found: Found
    folder: Path
    image: str | None  # a tokenizer of ours by name or path; None: the checkpoint's

    @property
    def bytes(self) -> int:
        return sum(self.found.tensors.stored[name].bytes for name in self.found.foreign.shapes())


def look(c: ImportConfig) -> Arrival:
    """Raises UserError for what cannot be imported, or where the run is there already."""
    source = Path(c.from_).expanduser()
    found = find(source)
    folder = Path(c.root) / (c.name or sanitise(source.resolve().name))
    if folder.exists():
        raise UserError(f"name={folder.name}: {folder} is there already; choose another name")
    image = c.image_tokenizer
    if found.pictures is None:
        image = image or KIND.shipped
    elif image is not None:
        if not (file := Path(image).expanduser()).suffix:
            raise UserError(f"image_tokenizer={image}: a Chameleon takes its own alone; name its vqgan.safetensors, or none")
        found, image = replace(found, pictures=from_file(found.pictures.arch, file)), None
    if found.pictures is not None:
        _ = found.pictures.decodes  # whether it is what its config says
    if c.text_tokenizer is not None:
        found = replace(found, text=Path(c.text_tokenizer).expanduser())
    _refuse_other_vocabulary(found)
    return Arrival(found, folder, image)


def write(a: Arrival, c: ImportConfig, tick: Tick) -> Job:
    """Writes the run; `tick` gets the bytes of each tensor that was made. UserError as `look`'s; nothing stays then."""
    with folder_aside(a.folder) as aside:
        (aside / "tokenizers").mkdir()
        names, vocabulary = _tokenizers(a, aside)
        job = _job(a, c, names, max(a.found.foreign.rows, vocabulary.size))
        with torch.device("meta"):
            m = job.config.model
            model = Transformer(m, job.config.router, vocabulary_size=vocabulary.size, modality_names=vocabulary.names)
        shapes = {path: tuple(x.shape) for path, x in model.state_dict().items()}
        made = promised(a.found, shapes, c.seed, tick)
        save_promised(aside / "checkpoints", made, _state(a, c, vocabulary), job.yaml)
        write_aside(aside / "config.yaml", job.yaml)
        write_aside(aside / REVISION, revision() + "\n")
        _write_size(aside, a, job)
    return job


def _tokenizers(a: Arrival, aside: Path) -> tuple[dict[str, str], Vocabulary]:
    """Writes the run's tokenizers; returns their names in the finished run, and the ids."""
    text, image = aside / "tokenizers" / "text.json", aside / "tokenizers" / "image.safetensors"
    there = a.folder.resolve() / "tokenizers"
    if a.found.pictures is None:
        assert a.image is not None, "of a text model one is chosen"
        spec = read_json(a.found.text)
        text.write_text(json.dumps(with_codes(spec, ImageTokenizer.load(a.image).codes), ensure_ascii=False), encoding="utf-8")
        if Path(a.image.partition("@")[0]).is_file():
            shutil.copyfile(a.image.partition("@")[0], image)
        names = {TEXT: str(there / text.name), "image": str(there / image.name) if image.exists() else a.image}
        aside_names = {TEXT: str(text), "image": a.image}
    else:
        shutil.copyfile(a.found.text, text)
        tokenizer = TextTokenizer.load(str(text))
        if tokenizer.layout is None:
            raise UserError(f"{a.found.text}: names no image codes (IMGIMG...), so this is not the tokenizer of a Chameleon")
        arrive(a.found.pictures, tokenizer, image)
        names = {TEXT: str(there / text.name), "image": str(there / image.name)}
        aside_names = {TEXT: str(text), "image": str(image)}
    vocabulary = vocabulary_of(TextTokenizer.load(aside_names[TEXT]), load_codecs(aside_names))
    return names, vocabulary


def _refuse_other_vocabulary(found: Found) -> None:
    """Where the tokenizer is not the one that the weights were trained with, as far as can be seen."""
    f, spec = found.foreign, read_json(found.text)
    try:
        ids = vocabulary_ids(spec) | added_ids(spec)
        last = max(ids.values())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{found.text}: has no vocabulary of names and ids ({error}); give a tokenizer.json") from error
    if last >= f.rows or (last + 1 < NAMED * f.rows and found.pictures is None):
        raise UserError(
            f"{found.text}: has {last + 1:,} ids, the weights {f.rows:,} rows; it is the tokenizer of another model"
        )
    known = found.config.get("vocabulary_map")
    if known and found.pictures is not None and (odd := {name for name, i in known.items() if ids.get(name) != i}):
        name = min(odd)
        was = ids.get(name, "missing")
        raise UserError(f"{found.text}: {name} is {was}, by config.json {known[name]}; it is the tokenizer of another model")


def _job(a: Arrival, c: ImportConfig, tokenizers: Mapping[str, str], rows: int) -> Job:
    """The config of a run that has these weights."""
    f = a.found.foreign
    words = ["+experiment=dense", *f.overrides, f"model.vocabulary_size={rows}", f"data.sequence_length={f.length}"]
    words += [f"tokenizer.{modality}={name}" for modality, name in tokenizers.items()]
    if all(a.found.tensors.stored[name].dtype == torch.float32 for name in f.shapes()):
        words.append("trainer.precision=fp32")  # computes what its weights say; `auto` may round them to bf16
    return compose([*words, f"run.name={a.folder.name}", f"run.root={c.root}", f"run.seed={c.seed}"])


def _state(a: Arrival, c: ImportConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """Of step 0: nothing was read, nothing counted."""
    counts = {"sequences": 0, "tokens": 0, "tokens_of": dict.fromkeys(vocabulary.names, 0), "flops": 0.0}
    origin = {"from": str(Path(c.from_).expanduser().resolve()), "kind": a.found.foreign.kind}
    return {"step": 0, **counts, "corpus": None, "imported": origin}


def _write_size(folder: Path, a: Arrival, job: Job) -> None:
    m, name = job.config.model, a.folder.name
    attention = {key: getattr(m.attention, key) for key in ("n_kv_heads", "qk_norm", "qk_norm_per_head", "rope_theta")}
    keys = ("vocabulary_size", "dim", "n_layers", "n_heads", "ffn", "ffn_multiple_of", "placement", "norm_eps")
    values = {
        "model": {key: getattr(m, key) for key in keys} | {"attention": attention},
        "tokenizer": job.config.tokenizer,
        "data": {"sequence_length": min(job.config.data.sequence_length, LONGEST)},
        "optim": {"lr": 1e-4, "lr_end": 1e-5, "warmup_steps": 100, "schedule": "cosine", "eps": 1e-8},
        "trainer": {"max_steps": 1000, "global_batch": 16, "micro_batch": 4, "eval_every": 200},
        "checkpoint": {"every": 200},
    }
    to = folder / "configs" / "size" / f"{name}.yaml"
    to.parent.mkdir(parents=True)
    words = f"# @package _global_\n# {upcycling_command(a.folder)}\n"
    write_aside(to, words + OmegaConf.to_yaml(OmegaConf.create(values)))


def upcycling_command(run: Path) -> str:
    """What a shell takes, but for the data."""
    words = ["--config-dir", f"{run}/configs", "+experiment=moma_4t4i", f"size={run.name}", f"upcycle={run}"]
    return f"{shlex.join(['python', '-m', 'momafuse.train', *words])} data=..."
