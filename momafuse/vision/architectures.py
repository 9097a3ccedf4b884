"""The architectures of image tokenizers: which one a config or a weights file means, and its module."""

from __future__ import annotations

import torch

from momafuse.errors import UserError
from momafuse.vision.autoencoder import HEAD, Autoencoder
from momafuse.vision.config import Architecture, VQGANArchitecture
from momafuse.vision.vqgan import GROUPS, VQGAN
from momafuse.vq.autoencoder import VQAutoencoder

AnyArchitecture = Architecture | VQGANArchitecture


def architecture(**fields: object) -> AnyArchitecture:
    """Of these fields, as a weights file has them. Raises TypeError where they are of none."""
    return (VQGANArchitecture if "multipliers" in fields else Architecture)(**fields)  # type: ignore[arg-type]


def build(arch: AnyArchitecture, decodes: bool = True) -> VQAutoencoder:
    """The module with weights as CPU convolutions like them best; a VQGAN can do without its decoder. Raises UserError for
    sizes that cannot be."""
    key = "tokenizer.architecture"
    if isinstance(arch, VQGANArchitecture):
        sizes = {"multipliers": min(arch.multipliers, default=0), "blocks": arch.blocks, "z": arch.z, "base": arch.base}
        for name, least in sizes.items():
            if least < 1:
                raise UserError(f"{key}.{name}={getattr(arch, name)}: must be at least 1, and multipliers one a level")
    if arch.image_size % arch.reduction:
        raise UserError(
            f"{key}.image_size={arch.image_size}: must be a multiple of {arch.reduction} pixels, the side of a code"
        )
    if isinstance(arch, Architecture) and arch.decoder_window:
        if arch.decoder_channels[0] % HEAD:
            raise UserError(f"{key}.decoder_channels={list(arch.decoder_channels)}: the first must be a multiple of {HEAD}")
        if arch.image_size % (pixels := arch.decoder_window * arch.reduction):
            raise UserError(
                f"{key}.image_size={arch.image_size}: must be a multiple of {pixels} pixels, the side of a window in which the "
                f"decoder attends (decoder_window={arch.decoder_window})"
            )
    if isinstance(arch, VQGANArchitecture) and arch.base % GROUPS:
        raise UserError(f"{key}.base={arch.base}: must be a multiple of {GROUPS}, the groups of its norms")
    if not decodes and not isinstance(arch, VQGANArchitecture):
        raise ValueError("has no decoder, which only a VQGAN can do without")
    model = VQGAN(arch, decodes) if isinstance(arch, VQGANArchitecture) else Autoencoder(arch)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
