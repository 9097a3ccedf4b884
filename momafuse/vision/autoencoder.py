"""The convolutional encoder and decoder around the quantizer: a 64-pixel RGB picture <-> an 8 x 8 grid of vectors.

Most work happens at a quarter and an eighth of the picture's side, where a convolution is cheap on a CPU: space to depth by 4,
residual blocks, space to depth by 2, residual blocks, and back by depth to space. The encoder has no norms and does not attend,
so nothing in a picture reaches farther than the kernels do: blank background stays one code wherever it stands. The decoder may
attend at an eighth, within windows of codes, after every second block. Every residual branch starts at zero.

Shapes: N pictures, H = W the picture's side, L = H / 8 the grid's side, `code_dim` the width of a code vector.
State-dict names: `encoder.*`, `decoder.*`. Knows nothing of codes (vq/) nor of training (training.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momafuse.vision.config import Architecture
from momafuse.vq.autoencoder import VQAutoencoder

HEAD = 64  # channels of a head
SHARPNESS = 10.0  # of attention: the largest score of two vectors


class ResidualBlock(nn.Module):
    """`x + W_1x1 silu(W_3x3 silu(x))`; the last weight starts at zero, so that depth costs nothing at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mix(F.silu(self.spatial(F.silu(x))))
        return out


class WindowAttention(nn.Module):
    """`x + W_1x1 attention(norm(x))` among the places of each window of a grid whose sides are whole numbers of windows.

    Queries and keys are unit vectors, times SHARPNESS, with a learned bias for each pair of places of a window.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window, self.heads = window, channels // HEAD
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.places = nn.Parameter(torch.zeros(self.heads, window**2, window**2))
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        side, rows, columns = self.window, h // self.window, w // self.window
        qkv = self.qkv(self.norm(x)).view(n, 3, self.heads, HEAD, rows, side, columns, side)
        q, k, v = qkv.permute(1, 0, 4, 6, 2, 5, 7, 3).reshape(3, n * rows * columns, self.heads, side**2, HEAD).unbind()
        q, k = SHARPNESS**0.5 * F.normalize(q, dim=-1), SHARPNESS**0.5 * F.normalize(k, dim=-1)
        found = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), self.places.to(q.dtype)[None], scale=1.0)
        grid = found.view(n, rows, columns, self.heads, side, side, HEAD).permute(0, 3, 6, 1, 4, 2, 5).reshape(n, c, h, w)
        out: Tensor = x + self.mix(grid.to(x.dtype).contiguous(memory_format=torch.channels_last))
        return out


def _blocks(channels: int, count: int, window: int = 0) -> list[nn.Module]:
    found: list[nn.Module] = []
    for number in range(count):
        found.append(ResidualBlock(channels))
        if window and number % 2 == 1:
            found.append(WindowAttention(channels, window))
    return found


class Encoder(nn.Sequential):
    """(N, 3, H, W) in [-1, 1] -> (N, code_dim, H/8, W/8)."""

    def __init__(self, arch: Architecture) -> None:
        middle, narrow = arch.encoder_channels
        super().__init__(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, middle, 3, padding=1),
            *_blocks(middle, arch.encoder_blocks[0]),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * middle, narrow, 1),
            *_blocks(narrow, arch.encoder_blocks[1]),
            nn.SiLU(),
            nn.Conv2d(narrow, arch.code_dim, 1),
        )


class Decoder(nn.Sequential):
    """(N, code_dim, L, L) -> (N, 3, 8L, 8L), about [-1, 1], not clipped."""

    def __init__(self, arch: Architecture) -> None:
        narrow, middle, wide = arch.decoder_channels
        super().__init__(
            nn.Conv2d(arch.code_dim, narrow, 3, padding=1),
            *_blocks(narrow, arch.decoder_blocks[0], arch.decoder_window),
            nn.Conv2d(narrow, 4 * middle, 1),
            nn.PixelShuffle(2),
            *_blocks(middle, arch.decoder_blocks[1]),
            nn.Conv2d(middle, 4 * wide, 1),
            nn.PixelShuffle(2),
            *_blocks(wide, arch.decoder_blocks[2]),
            nn.SiLU(),
            nn.Conv2d(wide, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        last = self[-2]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.ones_(last.bias)  # the background: white


class Autoencoder(VQAutoencoder):
    """Encoder and decoder without the quantizer between them."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.encoder = Encoder(arch)
        self.decoder = Decoder(arch)

    def encode(self, items: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> vectors (N, L*L, code_dim) in raster order, fp32."""
        z: Tensor = self.encoder(items)
        return z.flatten(2).transpose(1, 2).float()

    def decode(self, vectors: Tensor) -> Tensor:
        """Vectors (N, L*L, code_dim) in raster order, where codes live -> (N, 3, H, W), about [-1, 1], fp32."""
        side = int(vectors.shape[1] ** 0.5)
        grid = vectors.transpose(1, 2).reshape(len(vectors), -1, side, side)
        out: Tensor = self.decoder(grid.contiguous(memory_format=torch.channels_last)).float()
        return out
