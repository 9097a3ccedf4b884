"""Small checkpoints as other programs write them: made and saved by transformers, with weights that no default hides."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import ChameleonConfig, ChameleonForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from momafuse.vision.augment import to_unit
from tests.tokens.json_files import byte_level, llama_2

CODES, SIDE = 64, 32
PIECES = 320
PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (100, 3, SIDE, SIDE), dtype=np.uint8))
VQ = {
    "resolution": SIDE, "base_channels": 32, "channel_multiplier": [1, 2, 2], "num_res_blocks": 1, "embed_dim": 16,
    "latent_channels": 16, "num_embeddings": CODES, "attn_resolutions": None,
}  # fmt: skip


def code_name(code: int) -> str:
    """As the released vocabulary spells them."""
    return "IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z"


def chameleon_tokenizer(seed: int = 0) -> dict[str, Any]:
    """The order of the released one with 64 codes, shuffled, and text behind."""
    codes = list(range(CODES))
    random.Random(seed).shuffle(codes)
    spec = byte_level([], PIECES)
    names = ["<s>", "<pad>", "</s>", "<unk>", *map(code_name, codes), "<eoss>", "<racm3:break>", "<reserved08706>", "<image>"]
    vocab = {name: i for i, name in enumerate(names)}
    spec["model"]["vocab"] = vocab | {name: len(vocab) + i for name, i in spec["model"]["vocab"].items()}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    spec["added_tokens"] = [{"id": vocab[n], "content": n, "special": True, **flags} for n in names if "IMGIMG" not in n]
    return spec


def shaken(model: nn.Module, seed: int) -> None:
    """Every weight random, so that one that is lost, doubled or in another's place shows; norms about 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name and "vqmodel" not in name:
                p.copy_((0.3 * noise + ("bias" not in name)).to(p.dtype))
            elif "vqmodel" in name and p.ndim == 4:
                nn.init.kaiming_normal_(p)
            elif "vqmodel" not in name:
                p.copy_((noise * p.shape[-1] ** -0.5).to(p.dtype))


@torch.no_grad()
def spread(vq: Any) -> None:
    """Codes near what the encoder says of places in pictures, so that many of them are used."""
    vectors = vq.quant_conv(vq.encoder(to_unit(PICTURES[:20]))).permute(0, 2, 3, 1).flatten(0, 2)
    vq.quantize.embedding.weight.copy_(
        vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(4))[:CODES]]
    )


def chameleon(folder: Path, *, swin: bool, kv_heads: int = 2, dtype: torch.dtype = torch.float32, shard: str = "5GB") -> Any:
    """Saves a folder and returns the model of transformers."""
    spec = chameleon_tokenizer()
    rows = max(spec["model"]["vocab"].values()) + 1
    config = ChameleonConfig(
        vocab_size=rows, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=kv_heads, max_position_embeddings=256, swin_norm=swin, vq_config=VQ,
        vocabulary_map=spec["model"]["vocab"], bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(1)
    model = ChameleonForConditionalGeneration(config).eval()
    shaken(model, 2)
    spread(model.model.vqmodel)
    model = model.to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return model


def llama(folder: Path, *, tied: bool = False) -> Any:
    spec = llama_2()
    rows = max(spec["model"]["vocab"].values()) + 1
    config = LlamaConfig(
        vocab_size=rows, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0}, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).eval()
    shaken(model, 3)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return model
