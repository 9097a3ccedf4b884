"""Chameleon's configs both ways, and pixel values of transformers' picture processor with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from momafuse.errors import UserError
from momafuse.vision.augment import to_unit
from momafuse.vision.chameleon_config import (
    architecture_of,
    preprocessor_config,
    released_architecture,
    released_params_of,
    vq_config_of,
)
from momafuse.vision.config import VQGANArchitecture
from momafuse.vision.pictures import load_starter_pictures

FULL = VQGANArchitecture(512, 8192, 256, base=128, multipliers=(1, 1, 2, 2, 4), blocks=2, attention=(), z=256)
SMALL = VQGANArchitecture(64, 512, 16, base=32, multipliers=(1, 2, 2), blocks=1, attention=(16, 32), z=24)
RELEASED = {  # of the published vqgan.yaml
    "embed_dim": 256,
    "n_embed": 8192,
    "ddconfig": {
        "double_z": False, "z_channels": 256, "resolution": 512, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("arch", [FULL, SMALL])
def test_both_ways(arch: VQGANArchitecture) -> None:
    assert architecture_of(json.loads(json.dumps(vq_config_of(arch)))) == arch
    assert released_architecture(json.loads(json.dumps(released_params_of(arch)))) == arch


def test_the_published_ones_are_what_is_read_and_written() -> None:
    assert released_architecture(RELEASED | {"lossconfig": {"target": "loss"}, "ckpt_path": "x"}) == FULL
    assert released_params_of(FULL) == RELEASED
    assert architecture_of(None) == architecture_of({}) == FULL


def test_transformers_reads_what_is_written_and_writes_what_is_read() -> None:
    config = pytest.importorskip("transformers").ChameleonVQVAEConfig
    for arch in (FULL, SMALL):
        read = config(**vq_config_of(arch))
        assert {key: value for key, value in read.to_dict().items() if key in vq_config_of(arch)} == vq_config_of(arch)
        assert architecture_of(read.to_dict()) == architecture_of(read.to_diff_dict()) == arch
    assert config(**vq_config_of(FULL)).to_diff_dict() == config().to_diff_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attn_type": None}, r"^vq_config\.attn_type=null: momafuse has only VQGANs with \"vanilla\" here$"),
        ({"attn_type": "linear"}, r"^vq_config\.attn_type=\"linear\": "),
        ({"double_latent": True}, r"^vq_config\.double_latent=true: momafuse has only VQGANs with false here$"),
        ({"in_channels": 4}, r"^vq_config\.in_channels=4: momafuse has only VQGANs with 3 here$"),
        ({"model_type": "emu3_vqgan"}, r"^vq_config\.model_type=\"emu3_vqgan\": "),
        ({"base_channels": 48}, r"^vq_config\.base_channels=48: must be a multiple of 32$"),
        ({"resolution": 500}, r"^vq_config\.resolution=500: must be a multiple of 16$"),
        ({"channel_multiplier": []}, r"^vq_config\.channel_multiplier=\[\]: must have a number for each level$"),
        ({"channel_multiplier": [1, 0]}, r"^vq_config\.channel_multiplier=\[1, 0\]: must be whole numbers, 1 or more$"),
        ({"channel_multiplier": 4}, r"^vq_config\.channel_multiplier=4: must be whole numbers"),
        ({"num_embeddings": 0}, r"^vq_config\.num_embeddings=0: must be a whole number, 1 or more$"),
        ({"embed_dim": 2.5}, r"^vq_config\.embed_dim=2\.5: must be a whole number"),
        ({"num_res_blocks": True}, r"^vq_config\.num_res_blocks=true: must be a whole number"),
        ({"latent_channels": None}, r"^vq_config\.latent_channels=null: must be a whole number"),
    ],
)
def test_what_we_do_not_have_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture_of(vq_config_of(FULL) | change)


@pytest.mark.parametrize(
    ("change", "inner", "message"),
    [
        ({}, {"double_z": True}, r"^model\.params\.ddconfig\.double_z=true: momafuse has only VQGANs with false here$"),
        ({}, {"out_ch": 1}, r"^model\.params\.ddconfig\.out_ch=1: "),
        ({"n_embed": "many"}, {}, r"^model\.params\.n_embed=\"many\": must be a whole number"),
        ({"remap": "used.npy"}, {}, r"^model\.params\.remap=\"used\.npy\": "),
        ({"ddconfig": [1]}, None, r"^model\.params\.ddconfig=\[1\]: must be a mapping"),
        ({"ddconfig": {"ch": 128}}, None, r"^model\.params\.ddconfig\.resolution: is missing$"),
    ],
)
def test_so_it_is_of_the_released_one(change: dict[str, Any], inner: dict[str, Any] | None, message: str) -> None:
    params = RELEASED | ({} if inner is None else {"ddconfig": {**RELEASED["ddconfig"], **inner}}) | change  # type: ignore[dict-item]
    with pytest.raises(UserError, match=message):
        released_architecture(params)


def test_pixel_values_of_transformers_processor_are_ours(tmp_path: Path) -> None:
    """Of 100 pictures of the right size, each value within 1e-6. The defaults of transformers are up to 0.011 off."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(SMALL)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chameleon"}))
    processors = [transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")]
    from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

    processors.append(ChameleonImageProcessorPil(**preprocessor_config(SMALL)))
    found = load_starter_pictures(64).pictures
    pictures = found[torch.linspace(0, len(found) - 1, 100).long()]
    images = [Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy())) for picture in pictures]
    for processor in processors:
        values = torch.as_tensor(np.stack(processor(images)["pixel_values"]))
        assert values.shape == pictures.shape
        off = (values - to_unit(pictures)).abs().flatten(1).amax(1)
        assert int((off <= 1e-6).sum()) == 100, off.max()
    default = ChameleonImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    values = torch.as_tensor(np.stack(default(images)["pixel_values"]))
    assert 0.01 < float((values - to_unit(pictures)).abs().max()) < 0.012
