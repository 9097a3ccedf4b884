"""Compiles every kernel to machine code for an architecture, without a GPU, and says what became of it.

    python -m tests.kernels.triton.compiled 80 bfloat16 8192 1024 2816       capability, dtype, R, D, F of each group

One JSON line a kernel.

The launch code is the real one: only the driver, which names the device, and the start itself are put in its place. So what is
compiled has the tiles, constants, alignments and masks of a step. A process of its own, for the tests' is the interpreter's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget

from momafuse.kernels.triton import (
    activation,
    bulk,
    bulk_launch,
    choice,
    cross_entropy,
    launch,
    products,
    rotary,
    rotation,
    router,
    softmax,
)

SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that one program may have
INSTRUCTIONS = {"mma": r"\bmma\.sync", "wgmma": r"\bwgmma\.mma_async", "cp_async": r"\bcp\.async\.c[ag]\.shared"}
INSTRUCTIONS["bulk"] = r"\bcp\.async\.bulk\.tensor"
ROOMS = {
    products: ("up_kernel", "slope_kernel", "rows_kernel", "weights_kernel", "combine_kernel"),
    bulk: ("gather_kernel", *(f"bulk_{name}_kernel" for name in ("up", "slope", "rows", "weights"))),
    activation: ("swiglu_kernel", "swiglu_backward_kernel"),
    choice: ("logits_kernel", "logits_backward_kernel", "choose_kernel"),
    rotation: ("forward_kernel", "backward_kernel"),
    softmax: ("loss_kernel",),
}
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def describe(name: str, kernel) -> dict:
    """Registers and stack (spills stand there) as the assembler reports them, bytes of shared memory, instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    used = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage))
    ptx = kernel.asm["ptx"]
    return {
        "kernel": name,
        "registers": int(used["REG"]),
        "spilled": int(used["STACK"]) + int(used["LOCAL"]),
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
        **{what: len(re.findall(pattern, ptx)) for what, pattern in INSTRUCTIONS.items()},
    }


class Compiled:
    """Stands where triton's kernels are launched: compiles for `capability` instead, and keeps what came out."""

    def __init__(self, capability: int) -> None:
        driver = SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", capability, 32), get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
        )  # fmt: skip
        triton.runtime.driver.set_active(driver)
        launch.capability = lambda device: capability
        self.kernels: dict[str, dict] = {}
        self.names: Counter[str] = Counter()
        for room, names in ROOMS.items():
            for name in names:
                setattr(room, name, self._in_place_of(getattr(room, name)))

    def _in_place_of(self, kernel):
        outer = self

        class Instead:
            def __getitem__(self, grid):
                def start(*args, **constants):
                    name = kernel.__name__
                    flags = [k for k in ("GATHER", "SCATTER", "TWO", "TRANSPOSED", "GATHER_X", "GATHER_Y") if constants.get(k)]
                    full = " ".join([name, *flags])
                    outer.names[full] += 1
                    if outer.names[full] > 1:
                        full += f" #{outer.names[full]}"
                    outer.kernels[full] = describe(full, kernel.run(*args, grid=grid, warmup=True, **constants))

                return start

        return Instead()


def every_kernel(dtype: torch.dtype, d: int, widths: list[int], places: int, experts: int = 4) -> None:
    """All launches of the two ops, for groups of `experts` experts; nothing is computed."""

    def empty(*shape):
        return torch.empty(*shape, dtype=dtype)

    e = experts * len(widths)
    layout = launch.Layout(torch.zeros(e + 1, dtype=torch.int64), (experts,) * len(widths), places)
    rows, slots = torch.zeros(places, dtype=torch.int64), torch.zeros(places, 4, dtype=torch.int64)
    weights = torch.zeros(places)
    x = empty(places, d)
    gates, ups = ([empty(experts, d, f) for f in widths] for _ in range(2))
    downs = [empty(experts, f, d) for f in widths]
    a, b, h = launch.up(x, rows, layout, gates, ups, keep=True)
    launch.rows_times(h, layout, downs, x, rows, transposed=False)
    launch.rows_times(h, layout, downs, x, rows, transposed=False, scatter=True)
    launch.combine(x, slots, weights)
    launch.combine(x, slots, None)
    launch.slope(x, rows, layout, downs, a, b, weights)
    launch.slope(x, rows, layout, downs, a, b, None)
    launch.rows_times(a, layout, gates, x, rows, transposed=True, second=(b, ups))
    launch.weights_of(x, a, layout, rows, gates, [True] * len(widths), gather="x")
    launch.weights_of(h, x, layout, rows, downs, [True] * len(widths), gather="y")
    stacks = [w for group in zip(gates, ups, downs, strict=True) for w in group]
    if bulk_launch.serves(x, stacks):
        for sizes in (None, [places // e] * e):
            padded = bulk_launch.padded(layout.offsets, layout.experts, places, sizes)
            wide = empty(padded.rows, max(widths))
            bulk_launch.forward(x, rows, weights, slots, stacks, padded, True)
            bulk_launch.backward(x, x, rows, weights, slots, stacks, (wide, wide), [True] * len(stacks), padded)
        bulk_launch.forward(x, rows, None, slots, stacks, padded, False)
        bulk_launch.backward(x, x, rows, None, slots, stacks, (wide, wide), [True] * len(stacks), padded)
    activation.swiglu(a, b)
    activation.swiglu_backward(a, b, h)
    routed(dtype, d)
    square = [empty(1, d, d) for _ in range(2)]
    pair = launch.Layout(torch.zeros(3, dtype=torch.int64), (1, 1), places)
    launch.rows_times(x, pair, square, x, rows, transposed=True, gather=True, scatter=True)
    launch.rows_times(x, pair, square, x, rows, transposed=False, gather=True, scatter=True)
    for m in (0, 1, 2):  # scales
        rotated(dtype, d, m)
    for m in (1, 2):
        rotated(dtype, d, m, by_head=True)
    for ids in (65536, 12287):
        logits, one = empty(256, ids), torch.empty(256)
        cross_entropy.start(logits, torch.zeros(256, dtype=torch.int64), one, one, one, 1e-5, True)


def routed(dtype: torch.dtype, d: int) -> None:
    """A router of 8 and one of 16 experts, over a pool of as many rows as there may be."""
    for experts, rows in ((8, router.MOST_ROWS), (16, router.MOST_ROWS)):
        x, weight = torch.empty(rows, d, dtype=dtype), torch.empty(experts, d)
        z = router.router_logits(x, weight)
        torch.ops.momafuse.router_logits_backward(z, x, weight)
        half = [rows // experts] * experts
        modality, bounds = torch.zeros(rows, dtype=torch.uint8), [n * half[0] for n in range(experts + 1)]
        router.choose_rows(z, modality, 1, half, [1] * experts, bounds[:-1], list(range(experts)), bounds, experts)


def rotated(dtype: torch.dtype, d: int, scales: int, by_head: bool = False) -> None:
    """QK-norm and rotation of heads 64 wide (128 of 1_4b), or of one head where D is no multiple of that."""
    width = d if d % 64 else 128 if d >= 2048 else 64
    n = 2 * d // width
    qkv = torch.empty(4, 256, n, width, dtype=dtype)
    q, k = (torch.empty(4, 256, n // 2, width, dtype=dtype) for _ in "qk")
    each = [torch.empty(n // 2, width) if by_head else torch.empty(width) for _ in range(2 * scales)]
    modality, table = torch.zeros(4, 256, dtype=torch.uint8), torch.empty(2, 4, 1, 256, width // 2)
    common = (qkv, n // 2, each, modality, table, 1e-5)
    rotary._start(rotation.forward_kernel, *common, (q, k))
    parts = torch.empty(-(-1024 // rotary.rows_of(width)), n, scales, width)
    rotary._start(rotation.backward_kernel, *common, (q, k, torch.empty_like(qkv), parts))


def main() -> None:
    capability, dtype, places, d, *widths = sys.argv[1:]
    compiled = Compiled(int(capability))
    every_kernel(getattr(torch, dtype), int(d), [int(w) for w in widths], int(places))
    for kernel in compiled.kernels.values():
        print(json.dumps(kernel))


if __name__ == "__main__":
    main()
