"""The table of GPUs, against figures written down from the data sheets, and the names that torch gives."""

from __future__ import annotations

import pytest

from momafuse.reports.gpus import GPUS, peak_flops


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 1979 / 2),
        ("NVIDIA H100 PCIe", 1513 / 2),
        ("NVIDIA H100 NVL", 1671 / 2),
        ("NVIDIA H200", 1979 / 2),
        ("NVIDIA H200 NVL", 1671 / 2),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA B200", 72e3 / 8 / 4),
        ("NVIDIA L40S", 724.1 / 2),
        ("NVIDIA L4", 242 / 2),
        ("NVIDIA A10", 125),
    ],
)
def test_dense_bf16_of_the_names_that_torch_gives(name, tflops):
    assert peak_flops(name) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA L40", "NVIDIA A10G", "NVIDIA A100X", "NVIDIA H100", "NVIDIA GeForce GTX 1080", ""])
def test_a_gpu_that_only_looks_like_one_is_unknown(name):
    assert peak_flops(name) is None


def test_links_are_one_way_and_faster_than_the_network():
    assert {n: GPUS[n].link for n in ("h100_sxm", "a100_sxm", "b200")} == {
        "h100_sxm": 900e9 / 2,
        "a100_sxm": 600e9 / 2,
        "b200": 1800e9 / 2,
    }
    assert all(g.net <= g.link for g in GPUS.values())
