"""Chameleon's weights as they were released, under the names of the Hugging Face layout.

    FOLDER/models/7b/     params.json, consolidate_params.json, consolidated.safetensors or consolidated.00.safetensors ...
    FOLDER/tokenizer/     text_tokenizer.json, vqgan.yaml, vqgan.safetensors

with every .pth and .ckpt converted to safetensors under the same names. A model of several shards is cut as its training was:
wq, wk, wv, w1, w3 and output by rows, wo, w2 and tok_embeddings by columns; norms are whole in each, and the QK-norms of a
shard are those of its heads. Released weights turn the pair (x[2 i], x[2 i + 1]), so rows of wq and wk and the QK-norms come
in another order here: first the even ones of each head, then the odd ones. One tensor is made at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from momafuse.checkpoint.huggingface.files import CONVERT, SafeFiles, Stored, read_json
from momafuse.checkpoint.huggingface.layouts import EMBEDDING, HEAD, Foreign, read_foreign
from momafuse.errors import UserError

ROWS, COLUMNS = 0, 1
CUT = {  # foreign name -> released one, and along what shards are put together
    "self_attn.q_proj.weight": ("attention.wq.weight", ROWS),
    "self_attn.k_proj.weight": ("attention.wk.weight", ROWS),
    "self_attn.v_proj.weight": ("attention.wv.weight", ROWS),
    "self_attn.o_proj.weight": ("attention.wo.weight", COLUMNS),
    "mlp.gate_proj.weight": ("feed_forward.w1.weight", ROWS),
    "mlp.down_proj.weight": ("feed_forward.w2.weight", COLUMNS),
    "mlp.up_proj.weight": ("feed_forward.w3.weight", ROWS),
}
WHOLE = {"input_layernorm.weight": "attention_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight"}
NORMS = {f"self_attn.{x}_norm.{part}": f"attention.{x}_normalization.{part}" for x in "qk" for part in ("weight", "bias")}
COMPUTED = re.compile(r"rope\.freqs|.*\.rope\.freqs|freqs_cis")


def is_released(folder: Path) -> bool:
    return (folder / "params.json").is_file()


def shards(folder: Path) -> list[SafeFiles]:
    """Of each shard its file, in order. Raises UserError where one is missing or a pickle."""
    files = sorted(folder.glob("consolidated*.safetensors"))
    if not files:
        pickles = sorted(folder.glob("consolidated*.pth"))
        there = f" but {pickles[0].name}; {CONVERT}" if pickles else ""
        raise UserError(f"{folder}: has no consolidated*.safetensors{there}")
    numbers = [file.stem.removeprefix("consolidated").lstrip(".") for file in files]
    if len(files) > 1 and numbers != [f"{n:02d}" for n in range(len(files))]:
        raise UserError(f"{folder}: {', '.join(f.name for f in files)} are not all shards from 00 on; copy the missing ones")
    return [SafeFiles([file]) for file in files]


def read_params(folder: Path, files: list[SafeFiles]) -> Foreign:
    """Of params.json, and what only the tensors say."""
    params = read_json(folder / "params.json")
    more = folder / "consolidate_params.json"
    params |= read_json(more) if more.is_file() else {}
    model: dict[str, Any] = params.get("model", params)
    try:
        width, rows = files[0].stored["layers.0.feed_forward.w1.weight"], files[0].stored["output.weight"]
        return read_foreign(
            {
                "model_type": "chameleon",
                "vocab_size": rows.shape[0] * len(files),
                "hidden_size": model["dim"],
                "intermediate_size": width.shape[0] * len(files),
                "num_hidden_layers": model["n_layers"],
                "num_attention_heads": model["n_heads"],
                "num_key_value_heads": model.get("n_kv_heads"),
                "rms_norm_eps": model["norm_eps"],
                "rope_theta": model.get("rope_theta"),
                "max_position_embeddings": 4096,
                "swin_norm": model["swin_norm"],
            }
        )
    except KeyError as error:
        raise UserError(f"{folder}: {error.args[0]} is missing; this is no released Chameleon") from error
    except UserError as error:
        raise UserError(f"{folder / 'params.json'}: {error}") from error


class Released:
    """Every tensor of the transformer by its foreign name (`Tensors` of files.py)."""

    def __init__(self, files: list[SafeFiles], foreign: Foreign) -> None:
        """Raises UserError for tensors that are missing, of other shapes, or unknown."""
        self._files, self._foreign = files, foreign
        self._made = {name: self._of(name) for name in foreign.shapes()}
        self.stored: dict[str, Stored] = {}
        used = set()
        for name, shape in foreign.shapes().items():
            source, _ = self._made[name]
            used.add(source)
            if any(source not in file.stored for file in files):
                raise UserError(f"{source} is missing in one of {len(files)} files")
            self.stored[name] = Stored(shape, files[0].stored[source].dtype)
            self._check(name, source)
        unknown = [x for file in files for x in file.stored if x not in used and not COMPUTED.fullmatch(x)]
        if unknown:
            raise UserError(f"{unknown[0]} is no tensor of a Chameleon")

    def read(self, name: str) -> Tensor:
        source, join = self._made[name]
        return join([file.read(source) for file in self._files])

    def _of(self, name: str) -> tuple[str, Callable[[list[Tensor]], Tensor]]:
        """The released name, and what makes one tensor of those of all shards."""
        f = self._foreign
        top: Mapping[str, tuple[str, int | None]] = {
            EMBEDDING: ("tok_embeddings.weight", COLUMNS),
            "model.norm.weight": ("norm.weight", None),
            HEAD: ("output.weight", ROWS),
        }
        if name in top:
            source, dim = top[name]
            return source, _mean if dim is None else lambda parts: torch.cat(parts, dim)
        _, _, layer, short = name.split(".", 3)
        prefix = f"layers.{layer}."
        if short in WHOLE:
            return prefix + WHOLE[short], _mean
        heads = f.heads if ".q_" in short else f.kv_heads
        if short in NORMS:
            return prefix + NORMS[short], lambda parts: of_heads(parts, heads)
        released, dim = CUT[short]
        if short[10:].startswith(("q_", "k_")):
            return prefix + released, lambda parts: even_first(torch.cat(parts), heads)
        return prefix + released, lambda parts: torch.cat(parts, dim)

    def _check(self, name: str, source: str) -> None:
        """Of every shard its part."""
        whole, n = list(self.stored[name].shape), len(self._files)
        if ".q_norm." in name or ".k_norm." in name:
            whole = whole[1:]
        elif len(whole) == 2:
            dim = COLUMNS if name == EMBEDDING else dict(CUT.values()).get(source.split(".", 2)[-1], ROWS)
            whole[dim] //= n
        for file in self._files:
            if file.stored[source].shape != tuple(whole):
                raise UserError(f"{source} is {file.stored[source].shape}, by params.json {tuple(whole)} in each of {n} files")


def even_first(rows: Tensor, heads: int) -> Tensor:
    """(heads K, D), in each head the even rows before the odd ones."""
    return rows.view(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def of_heads(shards: list[Tensor], heads: int) -> Tensor:
    """A norm (K,) of each shard -> (heads, K), that of its shard for each head, even numbers first."""
    ordered = torch.stack(shards).view(len(shards), -1, 2).transpose(1, 2).reshape(len(shards), -1)
    return ordered.repeat_interleave(heads // len(shards), 0)


def _mean(parts: list[Tensor]) -> Tensor:
    """Shards hold copies of what is whole in each, which may have drifted apart in their last bits."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).float().mean(0).to(parts[0].dtype)
