"""Every kernel as machine code of both architectures, made without a GPU: it fits, spills nothing, and uses tensor cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest

from tests.kernels.triton.compiled import SHARED

SIZES = {"90m": (512, [1408]), "435m": (1024, [2816, 2816]), "1_4b": (2048, [5504, 5504])}  # D and F, one and two groups
PRODUCTS = {"up_kernel", "slope_kernel", "rows_kernel", "weights_kernel"}
BULK = {f"bulk_{name}_kernel" for name in ("up", "slope", "rows", "weights")}  # on 9.0, in 16 bits, at widths of whole tiles
OTHERS = {"swiglu_kernel", "swiglu_backward_kernel", "combine_kernel", "loss_kernel"}
OTHERS |= {"forward_kernel", "backward_kernel"}  # of QK-norm and rotation
OTHERS |= {"logits_kernel", "logits_backward_kernel", "choose_kernel"}


@cache
def kernels(capability: int, dtype: str, d: int, *widths: int, places: int = 8192) -> list[dict]:
    """In a process of its own: this one's triton is the interpreter."""
    command = [sys.executable, "-m", "tests.kernels.triton.compiled", *map(str, (capability, dtype, places, d, *widths))]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def fits(made: list[dict], capability: int, instruction: str) -> None:
    bulk = BULK | {"gather_kernel"} if capability == 90 else set()
    assert {k["kernel"].split()[0] for k in made} == PRODUCTS | OTHERS | bulk
    for k in made:
        assert k["spilled"] == 0, k
        assert k["registers"] <= 255, k
        assert k["registers"] * 32 * k["warps"] <= 65536, k
        assert k["shared"] <= SHARED[capability], k
        if k["kernel"].split()[0] in PRODUCTS:
            assert k[instruction] > 0, k
            assert k["cp_async"] > 0, f"its loads do not run ahead: {k}"
        if k["kernel"].split()[0] in BULK:
            assert k["wgmma"] > 0, k
            assert k["bulk"] > 0, k


@pytest.mark.parametrize(("capability", "instruction"), [(80, "mma"), (90, "wgmma")])
def test_every_kernel_fits_and_multiplies_on_tensor_cores(capability, instruction):
    fits(kernels(capability, "bfloat16", *SIZES["435m"][:1], *SIZES["435m"][1]), capability, instruction)


@pytest.mark.slow
@pytest.mark.parametrize("places", [8192, 512], ids=["many", "few"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("capability", "instruction"), [(80, "mma"), (90, "wgmma")])
def test_every_size_and_bucket(capability, instruction, dtype, size, places):
    d, widths = SIZES[size]
    fits(kernels(capability, dtype, d, *widths, places=places), capability, instruction)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_fp32_and_awkward_widths_compile(capability):
    """Widths that are no multiple of anything, in a launch with three groups: right, if not fast (registers may spill)."""
    for dtype in ("float32", "float16"):
        for k in kernels(capability, dtype, 100, 300, 77, 64):
            assert k["shared"] <= SHARED[capability], k
    for k in kernels(capability, "float32", 512, 1408):
        assert k["spilled"] == 0, k
