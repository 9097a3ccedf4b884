"""QK-norm and rotation of queries and keys: one kernel of ours against torch's passes, eager and compiled, both directions.

    python scripts/bench_rotary.py                                 4 sequences of 4,096 rows, heads of 90m, 435m, 1_4b, bf16
    python scripts/bench_rotary.py --sequences 1 --length 256      a quick try

Paired rounds as in scripts/timing.py, by what the device works. The kernel needs a GPU and is left out without one.
Prints JSON {"rows": [{size, member, forward_ms, backward_ms, gb_per_second}], "device", "torch"}: bytes are those that must
be read and written at least, x, y and their gradients, in both directions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import both_ways, facts, write
from torch import Tensor
from torch.nn.functional import rms_norm

from momafuse.config.compose import compose
from momafuse.kernels.capability import has_triton
from momafuse.kernels.rotary import norm_rotate, rotate
from momafuse.models.context import rotary_table

Member = Callable[[Tensor], tuple[Tensor, Tensor]]


def members_of(queries: int, scales: list[Tensor], table: Tensor, modality: Tensor) -> dict[str, Member]:
    """Functions of the heads (B, S, N, K) of both."""
    eps = 1e-5

    def passes(x: Tensor) -> tuple[Tensor, Tensor]:
        q, k = x.transpose(1, 2).split([queries, x.shape[2] - queries], dim=1)
        norms = (rms_norm(y, scale.shape, scale.to(y.dtype), eps) for y, scale in zip((q, k), scales, strict=True))
        q, k = (rotate(y, table) for y in norms)
        return q, k

    found: dict[str, Member] = {"torch": passes, "torch compiled": torch.compile(passes)}
    if table.is_cuda and has_triton(table.device):
        found["in one"] = lambda x: norm_rotate(x, queries, scales[:1], scales[1:], modality, table, eps)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["90m", "435m", "1_4b"], help="size groups, default all three")
    parser.add_argument("--sequences", type=int, default=4, help="default 4")
    parser.add_argument("--length", type=int, default=4096, help="rows of a sequence, default 4,096")
    parser.add_argument("--rounds", type=int, default=15, help="default 15")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for size in args.sizes:
        m = compose(["+experiment=dense", f"size={size}"]).config.model
        heads, width = m.n_heads, m.dim // m.n_heads
        x = torch.randn(args.sequences, args.length, 2 * heads, width, device=device).bfloat16().requires_grad_()
        scales = [torch.ones(width, device=device, requires_grad=True) for _ in "qk"]
        position = torch.arange(args.length, device=device).expand(args.sequences, -1)
        modality = torch.zeros_like(position, dtype=torch.uint8)
        members = members_of(heads, scales, rotary_table(position, width, m.attention.rope_theta), modality)
        heads_of = {name: partial(member, x) for name, member in members.items()}
        for name, (forward, both) in both_ways(heads_of, [x, *scales], args.rounds).items():
            backward = both - forward
            speed = 5 * x.numel() * x.element_size() / (forward + backward) / 1e9  # x and y, then dy, x and dx
            row = {"size": size, "member": name, "forward_ms": round(forward * 1e3, 4), "backward_ms": round(backward * 1e3, 4)}
            rows.append(row | {"gb_per_second": round(speed, 1)})
    write({"rows": rows} | facts(device), None)


if __name__ == "__main__":
    main()
