"""What GPUs can do, by the makers' data sheets: dense products in bf16 with fp32 sums, memory, links to other GPUs.

    flops   FLOP/s of bf16 tensor cores; sheets that give the figure with sparsity state twice as much
    memory  bytes
    link    bytes/s that one GPU sends over NVLink within its node (receives as much at the same time); PCIe cards: PCIe
    net     bytes/s that one GPU sends to other nodes: one port of the maker's own reference node

H100, H200: NVIDIA's data sheets of 2023 and 2024 (1,979 and 1,671 with sparsity; NVLink 900 GB/s both ways; DGX H100: 400
Gbit/s a GPU). A100: data sheet of 2021 (312; 600 GB/s; DGX A100: 200 Gbit/s). B200: DGX B200 data sheet of 2024 (72 PFLOP/s of
8 in FP8 with sparsity: a quarter of it a GPU in bf16; 1.8 TB/s). L40S, L4, A10: their data sheets. MI300X: AMD's of 2023
(1,307.4; Infinity Fabric 7 x 64 GB/s). What a GPU reaches lies below: clocks fall under load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    device: str  # how torch.cuda.get_device_name begins
    flops: float
    memory: float
    link: float
    net: float


GPUS = {
    "b200": Gpu("NVIDIA B200", 2250e12, 180e9, 900e9, 50e9),
    "h200_nvl": Gpu("NVIDIA H200 NVL", 835.5e12, 141e9, 450e9, 50e9),
    "h200_sxm": Gpu("NVIDIA H200", 989.5e12, 141e9, 450e9, 50e9),
    "h100_nvl": Gpu("NVIDIA H100 NVL", 835.5e12, 94e9, 300e9, 50e9),
    "h100_pcie": Gpu("NVIDIA H100 PCIe", 756.5e12, 80e9, 64e9, 50e9),
    "h100_sxm": Gpu("NVIDIA H100 80GB HBM3", 989.5e12, 80e9, 450e9, 50e9),
    "a100_sxm": Gpu("NVIDIA A100-SXM4", 312e12, 80e9, 300e9, 25e9),
    "a100_pcie": Gpu("NVIDIA A100 80GB PCIe", 312e12, 80e9, 32e9, 25e9),
    "l40s": Gpu("NVIDIA L40S", 362.05e12, 48e9, 32e9, 25e9),
    "l4": Gpu("NVIDIA L4", 121e12, 24e9, 32e9, 12.5e9),
    "a10": Gpu("NVIDIA A10", 125e12, 24e9, 32e9, 12.5e9),
    "mi300x": Gpu("AMD Instinct MI300X", 1307.4e12, 192e9, 448e9, 50e9),
}


def peak_flops(device_name: str) -> float | None:
    """FLOP/s in bf16 of the GPU with this name, None where the table has none: the longest name that fits as whole words."""
    fits = [g for g in GPUS.values() if re.match(rf"{re.escape(g.device)}(?!\w)", device_name)]
    return max(fits, key=lambda g: len(g.device)).flops if fits else None
