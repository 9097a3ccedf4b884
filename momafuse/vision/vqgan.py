"""VQGAN's encoder and decoder, of any width and depth: pictures <-> a grid of vectors, 2^(levels - 1) pixels a side each.

Esser et al., arXiv 2012.09841; with base 128, multipliers 1 1 2 2 4, two blocks a level and z 256 that of Chameleon's image
tokenizer (arXiv 2405.09818): 512 pixels to 32 x 32 codes. Each level has residual blocks, with self-attention over all places
where the grid's side is one of `attention`, and halves the side at its end; the middle always attends.

Shapes: N pictures, S their side, L the grid's side. State-dict names are those of the published module: `encoder.conv_in`,
`encoder.down.LEVEL.block.N`, `.attn.N`, `.downsample.conv`, `encoder.mid.block_1`, `.attn_1`, `.block_2`, `encoder.norm_out`,
`.conv_out`, `quant_conv`, and the same of the decoder with `up` and `upsample`, `post_quant_conv`. The codes are the
quantizer's. Computes what the published module computes. Knows nothing of training (training.py).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from momafuse.vision.config import VQGANArchitecture
from momafuse.vq.autoencoder import VQAutoencoder

GROUPS, EPS = 32, 1e-6  # of the norms


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=EPS)


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2, self.conv2 = _norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        kept = x if self.nin_shortcut is None else self.nin_shortcut(x)
        out: Tensor = kept + h
        return out


class Attention(nn.Module):
    """One head over all places, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2).unsqueeze(1) for part in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0]  # (N, L * L, C)
        out: Tensor = x + self.proj_out(seen.transpose(1, 2).reshape(x.shape))
        return out


class Halve(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # on the right and below alone, as published
        return out


class Double(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """`blocks` residual blocks, each with attention behind it where `attends`, and another side at the end where asked."""

    def __init__(
        self, channels_in: int, channels: int, blocks: int, *, attends: bool, halves: bool = False, doubles: bool = False
    ) -> None:
        super().__init__()
        inputs = [channels_in, *[channels] * (blocks - 1)]
        self.block = nn.ModuleList(ResidualBlock(n, channels) for n in inputs)
        self.attn = nn.ModuleList(Attention(channels) for _ in inputs if attends)
        self.downsample = Halve(channels) if halves else None
        self.upsample = Double(channels) if doubles else None

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[number](x)
        x = x if self.downsample is None else self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = ResidualBlock(channels, channels), Attention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """(N, 3, S, S) in [-1, 1] -> (N, z, L, L)."""

    def __init__(self, arch: VQGANArchitecture) -> None:
        super().__init__()
        widths = [arch.base * m for m in arch.multipliers]
        self.conv_in = nn.Conv2d(3, arch.base, 3, padding=1)
        self.down = nn.ModuleList()
        side = arch.image_size
        for number, (before, width) in enumerate(zip([arch.base, *widths[:-1]], widths, strict=True)):
            last = number == len(widths) - 1
            self.down.append(Level(before, width, arch.blocks, attends=side in arch.attention, halves=not last))
            side //= 2
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), nn.Conv2d(widths[-1], arch.z, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """(N, z, L, L) -> (N, 3, S, S), about [-1, 1], not clipped. One residual block a level more than the encoder."""

    def __init__(self, arch: VQGANArchitecture) -> None:
        super().__init__()
        widths = [arch.base * m for m in arch.multipliers]
        self.conv_in = nn.Conv2d(arch.z, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        levels = []
        side, before = arch.image_size // arch.reduction, widths[-1]
        for number, width in reversed(list(enumerate(widths))):
            levels.append(Level(before, width, arch.blocks + 1, attends=side in arch.attention, doubles=number > 0))
            side, before = 2 * side, width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out, self.conv_out = _norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class VQGAN(VQAutoencoder):
    """Encoder and decoder without the quantizer between them; `decodes=False`: without a decoder, whose memory is not taken.
    `post_quant_conv` is there in any case, as in checkpoints whose decoder was dropped."""

    def __init__(self, arch: VQGANArchitecture, decodes: bool = True) -> None:
        super().__init__()
        self.decodes = decodes
        self.encoder, self.decoder = Encoder(arch), Decoder(arch) if decodes else None
        self.quant_conv = nn.Conv2d(arch.z, arch.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(arch.code_dim, arch.z, 1)

    def encode(self, items: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> vectors (N, L * L, code_dim) in raster order, fp32."""
        z: Tensor = self.quant_conv(self.encoder(items))
        return z.flatten(2).transpose(1, 2).float()

    def decode(self, vectors: Tensor) -> Tensor:
        """Vectors (N, L * L, code_dim) in raster order, where codes live -> (N, 3, S, S), about [-1, 1], fp32."""
        assert self.decoder is not None, "whoever asks looks at `decodes`"
        side = int(vectors.shape[1] ** 0.5)
        grid = vectors.transpose(1, 2).reshape(len(vectors), -1, side, side)
        out: Tensor = self.decoder(self.post_quant_conv(grid)).float()
        return out
