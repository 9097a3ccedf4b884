"""The two configs of Chameleon's image tokenizer <-> VQGANArchitecture, and the config of its picture processor.

    ours           transformers' `vq_config`   `model.params` of the released `vqgan.yaml`
    image_size     resolution                  ddconfig.resolution
    codes          num_embeddings              n_embed
    code_dim       embed_dim                   embed_dim
    base           base_channels               ddconfig.ch
    multipliers    channel_multiplier          ddconfig.ch_mult
    blocks         num_res_blocks              ddconfig.num_res_blocks
    attention      attn_resolutions            ddconfig.attn_resolutions
    z              latent_channels             ddconfig.z_channels

What only training reads (dropout, losses) is passed over. Reads no files: whoever calls adds which one a message is about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from PIL.Image import Resampling

from momafuse.errors import UserError
from momafuse.vision.config import VQGANArchitecture
from momafuse.vision.vqgan import GROUPS

_VQ_CONFIG = {
    "image_size": "resolution", "codes": "num_embeddings", "code_dim": "embed_dim", "base": "base_channels",
    "multipliers": "channel_multiplier", "blocks": "num_res_blocks", "attention": "attn_resolutions", "z": "latent_channels",
}  # fmt: skip
_RELEASED = {
    "image_size": "ddconfig.resolution", "codes": "n_embed", "code_dim": "embed_dim", "base": "ddconfig.ch",
    "multipliers": "ddconfig.ch_mult", "blocks": "ddconfig.num_res_blocks", "attention": "ddconfig.attn_resolutions",
    "z": "ddconfig.z_channels",
}  # fmt: skip
_DEFAULTS = {  # of transformers, which may leave them out of a file
    "resolution": 512, "num_embeddings": 8192, "embed_dim": 256, "base_channels": 128, "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2, "attn_resolutions": None, "latent_channels": 256,
}  # fmt: skip
_SEVERAL = {keys[field] for keys in (_VQ_CONFIG, _RELEASED) for field in ("multipliers", "attention")}
# What must be so where it is given, and of that what is written.
_VQ_CONFIG_FIXED: dict[str, Any] = {
    "model_type": "chameleon_vqgan", "attn_type": "vanilla", "double_latent": False, "in_channels": 3, "out_channels": 3,
}  # fmt: skip
_VQ_CONFIG_WRITTEN = ("model_type", "attn_type", "double_latent", "in_channels")
_RELEASED_FIXED: dict[str, Any] = {
    "remap": None, "ddconfig.double_z": False, "ddconfig.in_channels": 3, "ddconfig.out_ch": 3, "ddconfig.attn_type": "vanilla",
    "ddconfig.resamp_with_conv": True, "ddconfig.give_pre_end": False,
}  # fmt: skip
_RELEASED_WRITTEN = ("ddconfig.double_z", "ddconfig.in_channels", "ddconfig.out_ch")


def architecture_of(vq_config: Mapping[str, Any] | None) -> VQGANArchitecture:
    """Of a transformers config; None or a missing key: its defaults. Raises UserError for what we do not have."""
    return _architecture(_DEFAULTS | dict(vq_config or {}), _VQ_CONFIG, _VQ_CONFIG_FIXED, "vq_config.")


def vq_config_of(arch: VQGANArchitecture) -> dict[str, Any]:
    """What `architecture_of` reads, with every key that transformers reads."""
    found = {key: _plain(getattr(arch, field)) for field, key in _VQ_CONFIG.items()}
    found |= {key: _VQ_CONFIG_FIXED[key] for key in _VQ_CONFIG_WRITTEN}
    return found | {"attn_resolutions": found["attn_resolutions"] or None, "dropout": 0.0}


def released_architecture(params: Mapping[str, Any]) -> VQGANArchitecture:
    """Of `model.params`. Raises UserError for what we do not have and for a key that is missing."""
    inner = params.get("ddconfig")
    if not isinstance(inner, Mapping):
        raise UserError(f"model.params.ddconfig={_shown(inner)}: must be a mapping, the sizes of the network")
    flat = {**params, **{f"ddconfig.{key}": value for key, value in inner.items()}}
    return _architecture(flat, _RELEASED, _RELEASED_FIXED, "model.params.")


def released_params_of(arch: VQGANArchitecture) -> dict[str, Any]:
    """What `released_architecture` reads."""
    flat = {key: _plain(getattr(arch, field)) for field, key in _RELEASED.items()}
    flat |= {key: _RELEASED_FIXED[key] for key in _RELEASED_WRITTEN} | {"ddconfig.dropout": 0.0}
    inner = {key.removeprefix("ddconfig."): value for key, value in flat.items() if "." in key}
    return {key: value for key, value in flat.items() if "." not in key} | {"ddconfig": inner}


def preprocessor_config(arch: VQGANArchitecture) -> dict[str, Any]:
    """`preprocessor_config.json`: the released code's x / 127.5 - 1, which transformers' own 0.0078 x - 1 only comes near."""
    side = arch.image_size
    return {
        "image_processor_type": "ChameleonImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True, "size": {"shortest_edge": side}, "resample": int(Resampling.LANCZOS),
        "do_center_crop": True, "crop_size": {"height": side, "width": side},
        "do_rescale": True, "rescale_factor": 1 / 127.5,
        "do_normalize": True, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0],
    }  # fmt: skip


def _architecture(
    config: Mapping[str, Any], keys: Mapping[str, str], fixed: Mapping[str, Any], where: str
) -> VQGANArchitecture:
    for key, needed in fixed.items():
        if key in config and config[key] != needed:
            raise UserError(f"{where}{key}={_shown(config[key])}: momafuse has only VQGANs with {_shown(needed)} here")
    values: dict[str, Any] = {field: _value(config, key, where) for field, key in keys.items()}
    arch = VQGANArchitecture(**values)
    if not arch.multipliers:
        raise UserError(
            f"{where}{keys['multipliers']}={_shown(config[keys['multipliers']])}: must have a number for each level"
        )
    for field, unit in (("base", GROUPS), ("image_size", arch.reduction)):
        if getattr(arch, field) % unit:
            raise UserError(f"{where}{keys[field]}={getattr(arch, field)}: must be a multiple of {unit}")
    return arch


def _value(config: Mapping[str, Any], key: str, where: str) -> int | tuple[int, ...]:
    if key not in config:
        raise UserError(f"{where}{key}: is missing")
    value, several = config[key], key in _SEVERAL
    numbers = ([] if value is None else value) if several else [value]
    if not isinstance(numbers, list | tuple) or any(type(n) is not int or n < 1 for n in numbers):
        raise UserError(f"{where}{key}={_shown(value)}: must be {'whole numbers' if several else 'a whole number'}, 1 or more")
    return tuple(numbers) if several else int(numbers[0])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
