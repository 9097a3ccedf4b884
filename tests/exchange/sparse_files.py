"""Checkpoints of full size that take no room: the headers of real ones, and holes where their numbers would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from momafuse.checkpoint.huggingface.layouts import read_foreign
from momafuse.vision.chameleon import PREFIX, shapes_of
from momafuse.vision.chameleon_config import architecture_of
from tests.tokens.json_files import chameleon

SEVEN = {
    "model_type": "chameleon", "vocab_size": 65_536, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "swin_norm": False, "rope_theta": 10_000.0, "vq_config": {},
}  # fmt: skip
SHARD = 5_000_000_000


def write(folder: Path, config: dict[str, Any]) -> int:
    """A Chameleon of that config in bf16; returns the bytes of its tensors."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(chameleon()[0]))
    shapes = read_foreign(config).shapes()
    shapes |= {PREFIX + name: shape for name, shape in shapes_of(architecture_of(config["vq_config"]), decoder=False).items()}
    shards: list[dict[str, Any]] = [{}]
    at = total = 0
    for name, shape in shapes.items():
        size = 2
        for n in shape:
            size *= n
        if at and at + size > SHARD:
            shards.append({})
            at = 0
        shards[-1][name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at, total = at + size, total + size
    index = {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header = json.dumps({"__metadata__": {"format": "pt"}, **shard}).encode()
        with file.open("wb") as f:
            f.write(len(header).to_bytes(8, "little") + header)
            f.truncate(8 + len(header) + max(entry["data_offsets"][1] for entry in shard.values()))
        index |= dict.fromkeys(shard, file.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return total
