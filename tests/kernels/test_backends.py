"""Which backend is chosen, which is refused; torch's grouped products against loops over single rows."""

from __future__ import annotations

import pytest
import torch

from momafuse.errors import UserError
from momafuse.kernels import capability, experts
from momafuse.kernels.experts import apply_experts, check_backend, choose, leaves_sizes
from momafuse.routing.plan import Plan
from tests.kernels.test_experts import gradients, loop, make_case
from tests.kernels.triton.test_interpreted import agree, ragged_case

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("counts", [[9, 0, 4], [0, 12, 0], [5, 5, 5]], ids=str)
def test_grouped_mm_agrees_with_loops_for_unequal_sizes(counts, gated):
    x, plan, groups = ragged_case([(12, counts), (16, [7])], 8, 12, gated=gated)
    plan = Plan(plan.rows, plan.offsets, plan.weights, plan.slots, (*counts, 7))
    agree(x, plan, groups, backend="grouped_mm")
    agree(x, plan, groups, torch.tensor(1.0).expand(12, 8), backend="grouped_mm")  # torch refuses such strides


def test_grouped_mm_is_bmm_where_sizes_are_equal():
    x, plan, groups = make_case([(2, 12, 5), (1, 16, 7)], 8, 12, seed=0, dtype=torch.float32)
    expected = loop(x, plan, groups)
    y = apply_experts(x, plan, groups, "grouped_mm")
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(gradients(y, x, plan, groups), gradients(expected, x, plan, groups), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


def test_grouped_mm_needs_sizes_on_the_host():
    x, plan, groups = ragged_case([(12, [4, 3])], 8, 12)
    with pytest.raises(ValueError, match=r"trainer\.backend=grouped_mm: only the device"):
        apply_experts(x, plan, groups, "grouped_mm")


def test_auto_goes_by_what_the_device_can(monkeypatch):
    x, plan, _ = ragged_case([(12, [4, 3])], 8, 12)
    known = Plan(plan.rows, plan.offsets, plan.weights, plan.slots, (4, 3))
    assert choose("auto", x, plan) == "bmm"  # on a CPU the host may look
    assert choose("auto", x, known) == "bmm"
    assert choose("reference", x, known) == "reference"
    with torch._subclasses.FakeTensorMode():
        on_gpu = torch.empty(2, 2, device="cuda", dtype=torch.bfloat16)
        for has, ragged, whole in ((True, "triton", "triton"), (False, "reference", "bmm")):
            for room in (experts, capability):
                monkeypatch.setattr(room, "has_triton", lambda device, has=has: has)
            assert choose("auto", on_gpu, plan) == ragged
            assert choose("auto", on_gpu, known) == whole
            assert leaves_sizes("auto", GPU) == has
            assert choose("auto", on_gpu.double(), known) == "bmm"
    assert not leaves_sizes("auto", CPU)
    assert leaves_sizes("triton", CPU)
    assert not leaves_sizes("bmm", GPU)


def test_what_the_device_can_is_a_constant_to_the_compiler(recwarn):
    @torch.compile(fullgraph=True, backend="eager")
    def function(x):
        return x + experts.has_triton(x.device)

    assert function(torch.zeros(1)) == 1
    assert not [w for w in recwarn if "Dynamo" in str(w.message)]


def test_kernels_without_a_gpu_are_one_line(monkeypatch):
    check_backend("triton", CPU)  # tests run them in the interpreter
    capability._found_triton.cache_clear()
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(UserError, match=r"trainer\.backend=triton: needs triton and a GPU .* this is cpu; write"):
        check_backend("triton", CPU)
    check_backend("auto", CPU)
    capability._found_triton.cache_clear()
