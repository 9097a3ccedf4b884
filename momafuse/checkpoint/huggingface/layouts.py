"""How a dense model is called in the Hugging Face layouts `chameleon` and `llama`, as data: names, shapes, config.json.

    ours                                        theirs, under model.layers.I.
    blocks.I.attention.qkv.weight               self_attn.{q,k,v}_proj.weight, one below the other
    blocks.I.attention.{out,q_norm,k_norm}.*    self_attn.{o_proj,q_norm,k_norm}.*
    blocks.I.{attention_norm,ffn_norm}.weight   {input,post_attention}_layernorm.weight
    blocks.I.experts.groups.all.{gate,up,down}  mlp.{gate,up,down}_proj.weight, transposed and stacked
    embedding.weight, norm.weight, head.weight  model.embed_tokens.weight, model.norm.weight, lm_head.weight

A Chameleon has QK-norm, LayerNorm with weights of its own for every head (`q_norm.weight (H, K)`), and its norms before
(7B) or behind (34B, `swin_norm`) the sub-layers; a Llama has none and its norms before. Both turn the pair (x[i],
x[i + K / 2]), as ours does. Does not read files (files.py) and knows no image tokenizer (vision/chameleon.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from momafuse.config.schema import ModelConfig
from momafuse.errors import UserError
from momafuse.models.experts import expert_width

Kind = Literal["chameleon", "llama"]
KINDS: dict[str, Kind] = {"chameleon": "chameleon", "llama": "llama"}
CHAMELEON_EPS = 1e-5  # of the QK-norms, fixed in the published module
LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
}
QK_NORMS = {f"attention.{x}_norm.{part}": f"self_attn.{x}_norm.{part}" for x in "qk" for part in ("weight", "bias")}
QKV, QKV_PARTS = "attention.qkv.weight", tuple(f"self_attn.{x}_proj.weight" for x in "qkv")
STACKED = {f"experts.groups.all.{x}": f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WHOLE = {"embedding.weight": EMBEDDING, "norm.weight": "model.norm.weight", "head.weight": HEAD}
COMPUTED = re.compile(r".*\.rotary_emb\.inv_freq")  # buffers that old files hold, and that follow from the config

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Foreign:
    """What a config.json says of the transformer."""

    kind: Kind
    rows: int  # of embedding and head
    dim: int
    layers: int
    heads: int
    kv_heads: int
    width: int  # of the FFN
    eps: float
    theta: float
    swin: bool
    length: int  # positions that it was trained on
    tied: bool  # the head is the embedding

    @property
    def overrides(self) -> list[str]:
        """The words of a training command that give this model, beside its tokenizers."""
        norms = ["qk_norm=layer", "qk_norm_per_head=true"] if self.kind == "chameleon" else ["qk_norm=none"]
        attention = [*norms, f"n_kv_heads={self.kv_heads}", f"rope_theta={self.theta!r}"]
        ffn = -(-3 * self.width // 2)  # the papers' count, of which an expert is two thirds
        model: dict[str, object] = {
            "dim": self.dim,
            "n_layers": self.layers,
            "n_heads": self.heads,
            "ffn": ffn,
            "ffn_multiple_of": 1,
        }
        model |= {"norm_eps": self.eps, "placement": "swin" if self.swin else "pre"}
        return [f"model.{key}={value}" for key, value in model.items()] + [f"model.attention.{word}" for word in attention]

    def shapes(self) -> dict[str, Shape]:
        """Every tensor of the transformer by its foreign name."""
        d, k = self.dim, self.dim // self.heads
        layer: dict[str, Shape] = {LAYER["attention_norm.weight"]: (d,), LAYER["ffn_norm.weight"]: (d,)}
        heads = dict(zip(QKV_PARTS, (self.heads, self.kv_heads, self.kv_heads), strict=True))
        layer |= {name: (count * k, d) for name, count in heads.items()} | {LAYER["attention.out.weight"]: (d, d)}
        if self.kind == "chameleon":
            layer |= {name: (self.heads if ".q_norm" in name else self.kv_heads, k) for name in QK_NORMS.values()}
        gate, up, down = STACKED.values()
        layer |= {gate: (self.width, d), up: (self.width, d), down: (d, self.width)}
        found = {f"model.layers.{i}.{name}": shape for i in range(self.layers) for name, shape in layer.items()}
        found |= {EMBEDDING: (self.rows, d), WHOLE["norm.weight"]: (d,)}
        return found if self.tied else found | {HEAD: (self.rows, d)}

    def sources(self, path: str) -> tuple[str, ...]:
        """The foreign tensors that one of ours is made of."""
        if (layer := re.fullmatch(r"blocks\.(\d+)\.(.*)", path)) is None:
            return (EMBEDDING,) if self.tied and path == "head.weight" else (WHOLE[path],)
        names = QKV_PARTS if layer[2] == QKV else ((LAYER | QK_NORMS | STACKED)[layer[2]],)
        return tuple(f"model.layers.{layer[1]}.{name}" for name in names)


def ours(path: str, parts: list[Tensor]) -> Tensor:
    """Our tensor of this path from those that `sources` names."""
    if path.endswith(QKV):
        return torch.cat(parts)
    return parts[0].t().unsqueeze(0).contiguous() if _stacked(path) else parts[0]


def theirs(foreign: Foreign, path: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The foreign tensors that one of ours becomes."""
    names = foreign.sources(path)
    if path.endswith(QKV):
        k = foreign.dim // foreign.heads
        parts = torch.split(tensor, [n * k for n in (foreign.heads, foreign.kv_heads, foreign.kv_heads)])
        yield from ((name, part.clone()) for name, part in zip(names, parts, strict=True))
    elif _stacked(path):
        yield names[0], tensor[0].t().contiguous()
    elif path.endswith(tuple(QK_NORMS)) and tensor.dim() == 1:  # one for all heads
        yield names[0], tensor.repeat(foreign.heads if ".q_norm." in path else foreign.kv_heads, 1)
    else:
        yield names[0], tensor


def _stacked(path: str) -> bool:
    return path.endswith(tuple(STACKED))


def read_foreign(config: Mapping[str, Any]) -> Foreign:
    """Of a config.json. Raises UserError, without the file, for what our model is not."""
    kind = KINDS.get(str(config.get("model_type")))
    if kind is None:
        raise UserError(f"model_type={config.get('model_type')}: known are {', '.join(KINDS)}")
    try:
        dim, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        found = Foreign(
            kind=kind,
            rows=int(config["vocab_size"]),
            dim=dim,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            width=int(config["intermediate_size"]),
            eps=float(config["rms_norm_eps"]),
            theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            swin=bool(config.get("swin_norm", False)),
            length=int(config["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise UserError(f"{error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"a value is of another type than it should be ({error})") from error
    _refuse_others(config, found, rope)
    return found


def _refuse_others(config: Mapping[str, Any], f: Foreign, rope: Mapping[str, Any]) -> None:
    if min(f.rows, f.dim, f.layers, f.heads, f.kv_heads, f.width, f.length) < 1:
        raise UserError("a size is below 1")
    k = f.dim // f.heads
    demands: dict[str, tuple[Any, Any]] = {
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "attention_bias": (bool(config.get("attention_bias", False)), False),
        "mlp_bias": (bool(config.get("mlp_bias", False)), False),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "head_dim": (config.get("head_dim") or k, k),
    }
    if f.kind == "chameleon":
        demands["rms_norm_eps"] = (f.eps, CHAMELEON_EPS)  # momafuse has one eps for all norms
    for key, (value, wanted) in demands.items():
        if value != wanted:
            raise UserError(f"{key}={value}: momafuse's model has {wanted} alone")
    if f.dim % f.heads or f.heads % f.kv_heads or k % 2:
        raise UserError(
            f"hidden_size={f.dim} num_attention_heads={f.heads} num_key_value_heads={f.kv_heads}: heads do not divide"
        )


def foreign_of(m: ModelConfig, kind: Kind, rows: int, length: int) -> Foreign:
    """Of a model of ours. Raises UserError, which names the key, where it is none of that layout."""
    a = m.attention
    wanted: dict[str, tuple[Any, Any]] = {
        "experts": ({g: n for g, n in m.experts.items() if g not in ("every", "start")}, {"all": 1}),
        "untie": (m.untie, []),
        "depth": (m.depth, None),
        "attention.qk_norm": (a.qk_norm, "layer" if kind == "chameleon" else "none"),
        "norm_eps": (m.norm_eps, CHAMELEON_EPS if kind == "chameleon" else m.norm_eps),
        "placement": (m.placement, m.placement if kind == "chameleon" else "pre"),
    }
    for key, (value, want) in wanted.items():
        if value != want:
            raise UserError(f"model.{key}={value}: the {kind} layout has {want} alone; format=momafuse takes any model")
    return Foreign(
        kind, rows, m.dim, m.n_layers, m.n_heads, a.n_kv_heads or m.n_heads, expert_width(m.ffn, m.ffn_multiple_of),
        m.norm_eps, a.rope_theta, m.placement == "swin", length, tied=False,
    )  # fmt: skip


def config_json(f: Foreign) -> dict[str, Any]:
    """What stands in config.json of the transformer, as `transformers` reads it."""
    names = {"chameleon": "ChameleonForConditionalGeneration", "llama": "LlamaForCausalLM"}
    own = {"swin_norm": f.swin, "model_parallel_size": 1} if f.kind == "chameleon" else {}
    return {
        "architectures": [names[f.kind]],
        "model_type": f.kind,
        "vocab_size": f.rows,
        "hidden_size": f.dim,
        "intermediate_size": f.width,
        "num_hidden_layers": f.layers,
        "num_attention_heads": f.heads,
        "num_key_value_heads": f.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": f.length,
        "rms_norm_eps": f.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": f.theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": f.tied,
        **own,
    }
