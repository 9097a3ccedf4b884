"""The expert op of every backend against a dense SwiGLU of the same FLOPs, paired in one process: forward, backward, parts.

    python scripts/bench_experts.py                                                    size 90m, 4 experts a group
    python scripts/bench_experts.py --sizes 90m 435m 1_4b --experts 1 4 8 --skew 0 0.5 --out experts.json

Two groups (text, image) share the rows half and half, each row goes through one expert, so that FLOPs are those of the dense
network. `--skew s` takes the share s of the rows of every other expert of a group and gives them to the first; bmm serves only
0. Paired rounds and ratios as in scripts/timing.py, by what the device works. `dense` is the FFN of the dense models (the same
products without a plan), `dense torch` the plain formula under autograd, `nine products` the products of dense and nothing
else, forward and backward: the least that any of them takes. `triton by group` is a launch for each group instead of one for
all, `liger` (where liger-kernel is installed, on a GPU) its fused experts of equal sizes, which sort the rows themselves.
`layer_ratio_..` adds the router (logits, choice, plan; forward and backward). The row of bmm says what the parts of its forward
take.

Prints a table, and JSON {"rows": [...], "device", "torch", ...} or writes it to --out; a row has `backend dim ffn rows groups
experts skew dtype forward_ms backward_ms ratio_to_dense ratio_to_products layer_ratio_to_dense layer_ratio_to_products
forward_tflops backward_tflops`, and bmm's `parts_ms`: route, gather, products, combine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timing import device_seconds, facts, milliseconds, paired, ratio, write
from torch import Tensor
from torch.nn.functional import silu

from momafuse.config.compose import compose
from momafuse.kernels.capability import has_triton
from momafuse.kernels.experts import apply_experts
from momafuse.kernels.gather import places_by_row, sum_places
from momafuse.kernels.weights import GroupWeights
from momafuse.models.experts import expert_width
from momafuse.parallel.host_memory import keep_freed_memory
from momafuse.routing.expert_choice import ExpertChoice
from momafuse.routing.plan import Group, Plan, fixed_plan

MODALITIES = 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BACKENDS = ("reference", "bmm", "grouped_mm", "triton")


@dataclass(frozen=True)
class Case:
    """What is multiplied: T rows of width D, experts of width F, in each of two groups."""

    dim: int
    ffn: int
    rows: int
    experts: int
    skew: float
    dtype: torch.dtype
    device: torch.device

    @property
    def flops(self) -> int:
        """Of the forward; the backward has twice as many."""
        return 6 * self.rows * self.dim * self.ffn


@dataclass(frozen=True)
class Stretch:
    """One sequence, text first: what a router and a plan read of a batch."""

    modality: Tensor
    order: Tensor
    budget: tuple[int, ...]


@dataclass(frozen=True)
class Member:
    forward: Callable[[], Tensor]
    leaves: list[Tensor]

    def both(self, direction: Tensor) -> None:
        torch.autograd.grad(self.forward(), self.leaves, direction)


class Products(torch.autograd.Function):
    """The nine products of a SwiGLU without anything between them: the numbers mean nothing, their time does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        a, _ = x @ gate, x @ up
        ctx.save_for_backward(x, a, gate, up, down)
        return a @ down

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        x, a, gate, up, down = ctx.saved_tensors
        dh = dy @ down.t()
        dx = torch.addmm(dh @ gate.t(), dh, up.t())
        return dx, x.t() @ dh, x.t() @ a, a.t() @ dy


def groups_of(case: Case) -> list[Group]:
    return [Group(f"m{m}", case.experts, (m,), case.ffn) for m in range(MODALITIES)]


def stretch(case: Case) -> Stretch:
    half = case.rows // MODALITIES
    modality = torch.arange(MODALITIES, device=case.device, dtype=torch.uint8).repeat_interleave(half)
    return Stretch(modality.view(1, -1), torch.arange(case.rows, device=case.device), (half,) * MODALITIES)


def routed(case: Case, generator: torch.Generator) -> tuple[ExpertChoice | None, Callable[[Tensor], Plan]]:
    """A router of random weights and the plan that it makes; experts of one are planned without."""
    rows = stretch(case)
    if case.experts == 1:
        plan = fixed_plan(groups_of(case), rows)
        assert plan is not None
        return None, lambda x: plan
    settings = replace(compose([]).config.router, pool=1)
    router = ExpertChoice(groups_of(case), case.dim, settings).to(case.device)
    for p in router.parameters():
        p.data.normal_(std=0.02, generator=generator)
    return router, lambda x: router(x, rows, None)


def skewed(case: Case, plan: Plan) -> Plan:
    """Its places with other borders between the experts of a group: the first takes from all others."""
    if not case.skew or case.experts == 1:
        return plan
    even = case.rows // MODALITIES // case.experts
    left = round(even * (1 - case.skew))
    sizes = [even * case.experts - left * (case.experts - 1), *[left] * (case.experts - 1)] * MODALITIES
    offsets = torch.tensor([0, *sizes], device=case.device).cumsum(0)
    return Plan(plan.rows, offsets, plan.weights, plan.slots, tuple(sizes))


def part_of(plan: Plan, experts: int, group: int) -> Plan:
    """The plan of one group alone; its weights are a view, so that gradients reach those of the whole."""
    assert plan.sizes is not None
    sizes = plan.sizes[group * experts : (group + 1) * experts]
    low = sum(plan.sizes[: group * experts])
    high = low + sum(sizes)
    slots = torch.where((plan.slots >= low) & (plan.slots < high), plan.slots - low, -1)
    offsets = plan.offsets[group * experts : (group + 1) * experts + 1] - low
    return Plan(plan.rows[low:high], offsets, None if plan.weights is None else plan.weights[low:high], slots, sizes)


def weights(case: Case, generator: torch.Generator) -> list[GroupWeights]:
    def randn(*shape: int) -> Tensor:
        w = torch.randn(*shape, generator=generator, device=case.device) / shape[-2] ** 0.5
        return w.to(case.dtype).requires_grad_()

    e, d, f = case.experts, case.dim, case.ffn
    return [GroupWeights(randn(e, d, f), randn(e, d, f), randn(e, f, d)) for _ in range(MODALITIES)]


def liger(case: Case, x: Tensor, generator: torch.Generator) -> Member:
    """Token choice of one expert a row, the same number of rows each; tuned by the library when it first runs."""
    from liger_kernel.ops.fused_moe import LigerFusedMoEFunction

    e = MODALITIES * case.experts

    def randn(*shape: int) -> Tensor:
        w = torch.randn(*shape, generator=generator, device=case.device) / shape[-1] ** 0.5
        return w.to(case.dtype).requires_grad_()

    gate_up, down = randn(e, 2 * case.ffn, case.dim), randn(e, case.dim, case.ffn)
    choice = (torch.randperm(case.rows, generator=generator, device=case.device) % e).int().unsqueeze(1)
    gates = torch.rand(case.rows, 1, generator=generator, device=case.device).requires_grad_()
    return Member(lambda: LigerFusedMoEFunction.apply(x, gate_up, down, choice, gates), [x, gate_up, down, gates])


def members_of(case: Case, backends: list[str]) -> dict[str, Member]:
    generator = torch.Generator(case.device).manual_seed(0)
    x = torch.randn(case.rows, case.dim, generator=generator, device=case.device).to(case.dtype).requires_grad_()
    router, plan_of = routed(case, generator)
    groups = weights(case, generator)
    made = plan_of(x.detach())
    gates = None if made.weights is None else made.weights.detach().requires_grad_()
    plan = skewed(case, Plan(made.rows, made.offsets, gates, made.slots, made.sizes))
    stacks = [w for g in groups for w in g]
    dense = [GroupWeights(*(w[:1].detach().requires_grad_() for w in groups[0]))]
    gate, up, down = (w[0] for w in dense[0])
    found = {
        "dense": Member(lambda: apply_experts(x, None, dense, "bmm"), [x, *dense[0]]),
        "nine products": Member(lambda: Products.apply(x, gate, up, down), [x, *dense[0]]),  # type: ignore[no-untyped-call]
        "dense torch": Member(lambda: (silu(x @ gate) * (x @ up)) @ down, [x, *dense[0]]),
    }
    if case.device.type == "cuda" and not case.skew and find_spec("liger_kernel") is not None:
        found["liger"] = liger(case, x, generator)
    if "triton" in backends:
        apart = [part_of(plan, case.experts, m) for m in range(MODALITIES)]

        def by_group() -> Tensor:
            one, two = (apply_experts(x, p, [g], "triton") for p, g in zip(apart, groups, strict=True))
            return one + two

        leaves = [x, *stacks] if gates is None else [x, gates, *stacks]
        found["triton by group"] = Member(by_group, leaves)
    for name in backends:
        if case.skew and case.experts > 1 and name == "bmm":
            continue
        leaves = [x, *stacks] if gates is None else [x, gates, *stacks]
        found[name] = Member(lambda name=name: apply_experts(x, plan, groups, name), leaves)  # type: ignore[misc]
        if router is not None:
            inner = [x, *router.parameters(), *stacks]
            found[f"{name} layer"] = Member(
                lambda name=name: apply_experts(x, skewed(case, plan_of(x)), groups, name), inner  # type: ignore[misc]
            )  # fmt: skip
    return found


def parts_of(case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of the steps of the forward of `bmm`, each on its own."""
    generator = torch.Generator(case.device).manual_seed(0)
    x = torch.randn(case.rows, case.dim, generator=generator, device=case.device).to(case.dtype)
    _, plan_of = routed(case, generator)
    with torch.no_grad():
        plan, groups = plan_of(x), weights(case, generator)
        by_row, starts = places_by_row(plan.slots, plan.rows.numel())
        xs = x[plan.rows]
        once = Plan(torch.arange(len(xs), device=x.device), plan.offsets, None, plan.slots, plan.sizes)
        once_slots = once.rows.unsqueeze(1)
        steps: dict[str, Callable[[], Any]] = {
            "route": lambda: plan_of(x),
            "gather": lambda: (places_by_row(plan.slots, plan.rows.numel()), x.index_select(0, plan.rows)),
            "products": lambda: apply_experts(
                xs, Plan(once.rows, once.offsets, None, once_slots, once.sizes), groups, "bmm"
            ),
            "combine": lambda: sum_places(xs, by_row, starts, plan.weights),
        }  # fmt: skip
        times = paired(steps, rounds, case.device, timer=device_seconds)
    return {name: milliseconds(t) for name, t in times.items()}


def measure(case: Case, backends: list[str], rounds: int) -> list[dict[str, Any]]:
    members = members_of(case, backends)
    direction = torch.randn(case.rows, case.dim, device=case.device).to(case.dtype)
    label = f"D {case.dim}, {case.experts} experts, skew {case.skew}"
    actions = {name: lambda m=m: m.both(direction) for name, m in members.items()}  # type: ignore[misc]
    both = paired(actions, rounds, case.device, timer=device_seconds, label=label)
    alone = {n: m.forward for n, m in members.items() if not n.endswith(" layer")}
    forward = paired(alone, rounds, case.device, timer=device_seconds, label=f"{label}, forward")

    def to(base: str, name: str) -> float | None:
        return ratio(both[name], both[base]) if name in both else None

    rows = []
    for name in alone:
        first, whole = (statistics.median(t[name]) for t in (forward, both))
        row: dict[str, Any] = {"backend": name, "dim": case.dim, "ffn": case.ffn, "rows": case.rows, "groups": MODALITIES}
        row |= {"experts": case.experts, "skew": case.skew, "dtype": str(case.dtype).removeprefix("torch.")}
        row |= {"forward_ms": round(1e3 * first, 4), "backward_ms": round(1e3 * (whole - first), 4)}
        row |= {"ratio_to_dense": to("dense", name), "ratio_to_products": to("nine products", name)}
        row |= {f"layer_ratio_to_{base.split()[-1]}": to(base, f"{name} layer") for base in ("dense", "nine products")}
        row |= {"forward_tflops": round(case.flops / first / 1e12, 4)}
        row |= {"backward_tflops": round(2 * case.flops / (whole - first) / 1e12, 4)}
        rows.append(row | ({"parts_ms": parts_of(case, rounds)} if name == "bmm" else {}))
    return rows


def cases(args: argparse.Namespace, device: torch.device) -> list[Case]:
    found = []
    for size in args.sizes:
        model = compose(["+experiment=dense", f"size={size}"]).config.model
        ffn = expert_width(model.ffn, model.ffn_multiple_of)
        for dtype in args.dtypes:
            for experts in args.experts:
                for skew in args.skew if experts > 1 else [0.0]:
                    found.append(Case(model.dim, ffn, args.rows, experts, skew, DTYPES[dtype], device))
    return found


def table(rows: list[dict[str, Any]]) -> Table:
    heads = "forward ms", "backward ms", "TFLOP/s", "to dense", "to products", "layer to dense", "to products"
    shown = Table("D", "F", "experts", "skew", "dtype", "backend", *heads)
    for r in rows:
        flops = 18 * r["rows"] * r["dim"] * r["ffn"] / (r["forward_ms"] + r["backward_ms"]) / 1e9
        cells = (r["dim"], r["ffn"], r["experts"], r["skew"], r["dtype"], r["backend"], r["forward_ms"], r["backward_ms"])
        ratios = (r[f"{of}ratio_to_{base}"] for of in ("", "layer_") for base in ("dense", "products"))
        shown.add_row(*map(str, cells), f"{flops:.3f}", *("" if r is None else f"{r:.3f}" for r in ratios))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["90m"])
    parser.add_argument("--experts", nargs="+", type=int, default=[4], help="of each of the two groups")
    parser.add_argument("--skew", nargs="+", type=float, default=[0.0])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["fp32", "bf16"])
    parser.add_argument("--rows", type=int, default=None, help="default: 4096 on a CPU, 32768 on a GPU")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    args.rows = args.rows or (32768 if device.type == "cuda" else 4096)
    backends = args.backends or [b for b in BACKENDS if b != "triton" or (device.type == "cuda" and has_triton(device))]
    rows = [row for case in cases(args, device) for row in measure(case, backends, args.rounds)]
    Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(table(rows))
    write({"rows": rows, "rounds": args.rounds} | facts(device), args.out)


if __name__ == "__main__":
    main()
