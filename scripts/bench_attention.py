"""Attention within documents: every way that kernels/attention.py knows, forward and with all gradients.

    python scripts/bench_attention.py                                            4 sequences of 4,096 rows, bf16
    python scripts/bench_attention.py --sequences 1 --length 256 --documents 3   a quick try

Paired rounds as in scripts/timing.py, by what the device works. `documents` and `blocks` need a GPU; `all rows`
sees no documents, and is there where there is one. Documents are of random lengths, the same for every way.
Prints JSON {"rows": [{way, head, documents, forward_ms, both_ms}], "device", "torch"}; `head` is the width of one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from timing import both_ways, facts, write
from torch import Tensor

from momafuse.data.batch import begins_of
from momafuse.kernels.attention import Documents, attend, blocks, pairs
from momafuse.kernels.capability import has_triton

WIDTH = 1024  # of all heads together: 16 of 64, as at 435m, or 8 of 128


def spans(sequences: int, length: int, documents: int) -> Tensor:
    """(B, S) int32: which of its sequence's documents a row belongs to, all of them at least one row long."""
    g = torch.Generator().manual_seed(0)
    cuts = torch.stack([torch.randperm(length - 1, generator=g)[: documents - 1] + 1 for _ in range(sequences)])
    begins = torch.zeros(sequences, length, dtype=torch.int32).scatter(1, cuts, 1)
    return begins.cumsum(1).to(torch.int32)


def ways_of(span: Tensor, heads: Sequence[Tensor]) -> dict[str, Callable[[], Sequence[Tensor]]]:
    """Functions of queries, keys and values (B, H, S, K)."""
    q, k, v = heads
    masks = {"pairs": pairs(span, q.dtype)} | ({"all rows": None} if int(span.max()) == 0 else {})
    if q.is_cuda and has_triton(q.device):
        masks |= {"documents": Documents(begins_of(span.cpu()).to(q.device), span.shape[1]), "blocks": blocks(span)}
    return {name: lambda m=mask: [attend(q, k, v, m)] for name, mask in masks.items()}  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=4, help="default 4")
    parser.add_argument("--length", type=int, default=4096, help="rows of a sequence, default 4,096")
    parser.add_argument("--documents", nargs="+", type=int, default=[1, 12], help="of a sequence, default 1 and 12")
    parser.add_argument("--rounds", type=int, default=15, help="default 15")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for head in (64, 128):
        shape = args.sequences, args.length, WIDTH // head, head
        heads = [
            torch.randn(shape, device=device).bfloat16().transpose(1, 2).requires_grad_() for _ in "qkv"
        ]  # as rotation leaves them
        for documents in args.documents:
            ways = ways_of(spans(args.sequences, args.length, documents).to(device), heads)
            for way, (forward, both) in both_ways(ways, heads, args.rounds).items():
                row = {"way": way, "head": head, "documents": documents}
                rows.append(row | {"forward_ms": round(forward * 1e3, 4), "both_ms": round(both * 1e3, 4)})
    write({"rows": rows} | facts(device), None)


if __name__ == "__main__":
    main()
