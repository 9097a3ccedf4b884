"""A Chameleon as it was released, cut into shards as its training was: made here by loops from one of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from momafuse.import_ import main as import_
from momafuse.interface import Model
from momafuse.vision.chameleon_config import architecture_of, released_params_of
from momafuse.vision.vqgan import VQGAN
from tests.exchange import foreign

HEADS, DIM, WIDTH = 4, 64, 88


def odd_even(rows: Tensor, heads: int) -> Tensor:
    """Row i of a head's first half becomes row 2 i, row i of its second half row 2 i + 1."""
    out = torch.empty_like(rows)
    k = len(rows) // heads
    for h in range(heads):
        for i in range(k // 2):
            out[h * k + 2 * i] = rows[h * k + i]
            out[h * k + 2 * i + 1] = rows[h * k + k // 2 + i]
    return out


def release(to: Path, theirs: Any, kv_heads: int, shards: int, swin: bool) -> Path:
    """Writes the folders and returns that of the model."""
    state = {name.removeprefix("model."): x for name, x in theirs.state_dict().items()}
    files: list[dict[str, Tensor]] = [{} for _ in range(shards)]

    def cut(name: str, x: Tensor, dim: int | None) -> None:
        parts = [x] * shards if dim is None else torch.chunk(x, shards, dim)
        for file, part in zip(files, parts, strict=True):
            file[name] = part.clone()

    cut("tok_embeddings.weight", state["embed_tokens.weight"], 1)
    cut("norm.weight", state["norm.weight"], None)
    cut("output.weight", theirs.lm_head.weight.data, 0)
    for i in range(2):
        ours, layer = f"layers.{i}.", f"layers.{i}."
        cut(layer + "attention.wq.weight", odd_even(state[ours + "self_attn.q_proj.weight"], HEADS), 0)
        cut(layer + "attention.wk.weight", odd_even(state[ours + "self_attn.k_proj.weight"], kv_heads), 0)
        cut(layer + "attention.wv.weight", state[ours + "self_attn.v_proj.weight"], 0)
        cut(layer + "attention.wo.weight", state[ours + "self_attn.o_proj.weight"], 1)
        cut(layer + "feed_forward.w1.weight", state[ours + "mlp.gate_proj.weight"], 0)
        cut(layer + "feed_forward.w2.weight", state[ours + "mlp.down_proj.weight"], 1)
        cut(layer + "feed_forward.w3.weight", state[ours + "mlp.up_proj.weight"], 0)
        cut(layer + "attention_norm.weight", state[ours + "input_layernorm.weight"], None)
        cut(layer + "ffn_norm.weight", state[ours + "post_attention_layernorm.weight"], None)
        for x, heads in (("q", HEADS), ("k", kv_heads)):
            for part in ("weight", "bias"):
                norm = state[f"{ours}self_attn.{x}_norm.{part}"]
                for s, file in enumerate(files):  # a shard has one, that of its heads
                    file[f"{layer}attention.{x}_normalization.{part}"] = odd_even(norm[s * heads // shards], 1)
    model, beside = to / "models" / "7b", to / "tokenizer"
    model.mkdir(parents=True)
    beside.mkdir()
    for s, file in enumerate(files):
        save_file(file, model / ("consolidated.safetensors" if shards == 1 else f"consolidated.{s:02d}.safetensors"))
    params = {"dim": DIM, "n_layers": 2, "n_heads": HEADS, "n_kv_heads": kv_heads, "norm_eps": 1e-5, "swin_norm": swin}
    (model / "params.json").write_text(json.dumps({"model": params, "model_parallel_size": shards}))
    (beside / "text_tokenizer.json").write_text(json.dumps(foreign.chameleon_tokenizer()))
    arch = architecture_of(foreign.VQ)
    (beside / "vqgan.yaml").write_text(yaml.safe_dump({"model": {"params": released_params_of(arch)}}))
    torch.manual_seed(5)
    decoder = {name: x for name, x in VQGAN(arch).state_dict().items() if name.startswith("decoder.")}
    pictures = {name: x.contiguous() for name, x in (theirs.model.vqmodel.state_dict() | decoder).items()}
    save_file(pictures, beside / "vqgan.safetensors")
    return model


def same_norms(theirs: Any, kv_heads: int, shards: int) -> None:
    """As released: heads of one shard share the norms of that shard."""
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "q_norm" in name or "k_norm" in name:
                heads = HEADS if "q_norm" in name else kv_heads
                for h in range(heads):
                    p[h] = p[h - h % (heads // shards)]


@pytest.mark.parametrize(("shards", "swin", "kv_heads"), [(1, False, 4), (2, True, 2), (4, True, 4)])
def test_it_is_the_model_that_it_was_made_from(tmp_path: Path, shards: int, swin: bool, kv_heads: int) -> None:
    theirs = foreign.chameleon(tmp_path / "theirs", swin=swin, kv_heads=kv_heads)
    same_norms(theirs, kv_heads, shards)
    folder = release(tmp_path / "released", theirs, kv_heads, shards, swin)
    import_([f"from={folder}", f"root={tmp_path}", "name=run"])
    model = Model.load(tmp_path / "run", "cpu")
    ids = [*model.tokens("a red apple"), *range(4, 68)]
    with torch.inference_mode():
        wanted = theirs(torch.tensor([ids])).logits[0]
    kept = wanted > torch.finfo(wanted.dtype).min
    torch.testing.assert_close(model.logits(ids)[kept], wanted[kept], rtol=0, atol=1e-5)


def test_its_image_tokenizer_draws(tmp_path: Path) -> None:
    theirs = foreign.chameleon(tmp_path / "theirs", swin=True)
    same_norms(theirs, 2, 1)
    folder = release(tmp_path / "released", theirs, 2, 1, True)
    import_([f"from={folder}", f"root={tmp_path}", "name=run"])
    model = Model.load(tmp_path / "run", "cpu")
    codes = model.lm.codecs["image"].encode([foreign.PICTURES[0]])[0]
    assert model.decode_image(codes).size == (foreign.SIDE, foreign.SIDE)
    beside = tmp_path / "released" / "tokenizer" / "vqgan.safetensors"
    import_([f"from={tmp_path / 'theirs'}", f"root={tmp_path}", "name=again", f"image_tokenizer={beside}"])
    again = Model.load(tmp_path / "again", "cpu")
    assert again.decode_image(codes).tobytes() == model.decode_image(codes).tobytes()


def test_what_draws_goes_along(tmp_path: Path) -> None:
    from momafuse.export import main as export

    folder = release(tmp_path / "released", foreign.chameleon(tmp_path / "theirs", swin=True), 2, 1, True)
    import_([f"from={folder}", f"root={tmp_path}", "name=run"])
    export([f"run={tmp_path / 'run'}", f"to={tmp_path / 'out'}"])
    import_([f"from={tmp_path / 'out'}", f"root={tmp_path}", "name=again"])
    a, b = (tmp_path / name / "tokenizers" / "image.safetensors" for name in ("run", "again"))
    assert a.read_bytes() == b.read_bytes()
