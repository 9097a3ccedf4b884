"""Keys and values of earlier rows, so that a new row of a sequence is computed alone (decoding with a cache).

Each layer keeps, for each of B sequences, the keys and values of the rows that went through its attention: all rows, or in a
layer of a mixture of depths those that its router kept. So every layer has its own number of them for every sequence. The
first pass brings prompts, padded at their ends; every later pass brings one row of each sequence.

Shape legend: B sequences, N rows of a pass in sequence order, H heads, G heads of keys and values, K width of a head,
L rows that a sequence may have. Makes no rows and chooses none; inference only: nothing is differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from momafuse.kernels.attention import Mask, attend


class LayerMemory:
    """What one layer keeps. Place L of a sequence takes what nobody may see: padding."""

    def __init__(self, sequences: int, heads: int, length: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.zeros(sequences, heads, length + 1, width, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.filled = torch.zeros(sequences, dtype=torch.int64, device=device)

    def take(self, k: Tensor, v: Tensor, sequence: Tensor, real: Tensor) -> None:
        """k and v (N, G, K) of rows of these sequences (N,), in order; those not `real` go to place L."""
        mine = (sequence[:, None] == torch.arange(len(self.filled), device=k.device)) & real[:, None]  # (N, B)
        rank = mine.cumsum(0).gather(1, sequence[:, None])[:, 0] - 1
        last = self.keys.shape[2] - 1
        place = torch.where(real, self.filled[sequence] + rank, last)
        self.keys[sequence, :, place] = k
        self.values[sequence, :, place] = v
        self.filled += mine.sum(0)

    def take_one(self, k: Tensor, v: Tensor, sequence: Tensor) -> Tensor:
        """The same of one row of each of these sequences, none padding."""
        place = self.filled[sequence]
        self.keys[sequence, :, place] = k
        self.values[sequence, :, place] = v
        self.filled[sequence] = place + 1
        return place

    def select(self, sequences: Tensor) -> None:
        """Keeps these sequences (n,), in this order."""
        self.keys, self.values, self.filled = self.keys[sequences], self.values[sequences], self.filled[sequences]


@dataclass(frozen=True)
class Memory:
    """The memory of one layer as one pass meets it."""

    layer: LayerMemory
    sequence: Tensor  # (N,) int64, the sequence of each row
    real: Tensor  # (N,) bool; False: padding behind a prompt
    rows: int  # of the longest sequence, those of this pass included; 0: the pass is the first
    read: bool  # whether the host may read what routers choose in a step, since it waits for nothing

    def of_kept(self, numbers: Tensor) -> Memory:
        """For these rows (n,) of the pass alone."""
        return replace(self, sequence=self.sequence[numbers], real=self.real[numbers])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        """q (b, H, s, K), k and v (b, G, s, K) -> (b, H, s, K), and keeps k and v. b * s = N.

        The rows of a first pass see each other as `mask` says; a later row sees all that its sequence has, itself last.
        """
        flat_k, flat_v = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))
        if not self.rows:
            self.layer.take(flat_k, flat_v, self.sequence, self.real)
            return attend(q, k, v, mask)
        place = self.layer.take_one(flat_k, flat_v, self.sequence)
        b, heads, s, width = q.shape
        keys, values = self.layer.keys[:, :, : self.rows], self.layer.values[:, :, : self.rows]
        if b * s != len(self.layer.filled):  # rows of some sequences: a depth router passed the others by
            keys, values = keys[self.sequence], values[self.sequence]
        seen = torch.arange(self.rows, device=q.device) <= place[:, None]
        rows = q.transpose(1, 2).reshape(b * s, heads, 1, width)
        grouped = heads != keys.shape[1]
        y = scaled_dot_product_attention(rows, keys, values, attn_mask=seen[:, None, None], enable_gqa=grouped)
        return y.reshape(b, s, heads, width).transpose(1, 2)


class ModelMemory:
    """The memory of all layers of a model."""

    def __init__(
        self,
        layers: int,
        sequences: int,
        heads: int,
        length: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        read: bool,
    ) -> None:
        """`heads` of keys and values, of `width`; `length`: rows that a sequence may have, padding of prompts included; `read`
        as in `Memory`."""
        self.layers = [LayerMemory(sequences, heads, length, width, dtype, device) for _ in range(layers)]
        self.length, self.rows, self.read = length, 0, read

    def passing(self, real: Tensor) -> list[Memory]:
        """What each layer meets in the next pass, of rows `real` (B, S); S is 1 but in the first, else ValueError."""
        b, s = real.shape
        if (self.rows and s != 1) or self.rows + s > self.length:
            raise ValueError(f"a pass of {s} rows after {self.rows}, of at most {self.length}")
        sequence = torch.arange(b, device=real.device).repeat_interleave(s)
        seen = self.rows + s if self.rows else 0
        self.rows += s
        return [Memory(layer, sequence, real.flatten(), seen, self.read) for layer in self.layers]

    def select(self, sequences: Tensor) -> None:
        """Goes on with these sequences (n,) alone, in this order; one may stand there several times."""
        for layer in self.layers:
            layer.select(sequences)
