"""Modality order with a staircase mask against sequence order: the same model on the same rows, paired in one process.

    python scripts/bench_order.py                                                   size nano, moe_1t1i and mot
    python scripts/bench_order.py mot --size 90m --precision bf16 --rounds 9 --out order.json

Sequence order is the project's: rows stay where they are, attention is causal, products by modality gather rows. In modality
order the rows of a batch are permuted once, text of every sequence, then its pictures (`Batch.order`), so that the rows of a
modality are one contiguous slice of known size and every product is a plain one. A row sees a row of its document if and only
if its position is no smaller: causal within a modality, a staircase across; without `model.attention.document_mask` of its
sequence. On a GPU that is FlexAttention with a block mask over the whole batch (as sequence order has it for documents), on a
CPU torch's attention with an additive mask, for which the rows of each sequence are brought together and put apart again.
After the last layer rows are put back.

The model's code knows nothing of it: it gets a permuted batch, and its attention and products are replaced from here. Pictures
and text stand in stretches of an eighth of a sequence, each a document, in another order in each sequence. A round runs both
orders, each round beginning with the other; ratios (modality to sequence) are medians over the rounds of the ratio within a
round. `blocks` is forward and backward without loss and optimizer, in modality order with the mask's making and both
permutations; `attention` the softmax attention of one layer, forward and backward; `mask` what the mask's making takes.

Prints a table, and JSON {"rows": [...], "size", "device", ...} or writes it to --out; a row has `experiment dtype difference
blocks_ms blocks_ratio attention_ms attention_ratio mask_ms`, milliseconds as [sequence, modality], and in `difference` the
largest distance between both orders over the output and all gradients, as a share of their norm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from bench_step import STARTER, random_batch, seconds, wait
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from momafuse.config.compose import compose
from momafuse.data.batch import Batch
from momafuse.errors import UserError
from momafuse.kernels.attention import Mask, attend
from momafuse.kernels.weights import GroupWeights
from momafuse.models import attention, experts, linear
from momafuse.models.context import Recipe
from momafuse.models.transformer import Objective, T, Transformer
from momafuse.parallel.precision import resolve_device
from momafuse.routing.plan import Plan
from momafuse.training.setup import build_model
from momafuse.world import World

STRETCHES = 8  # of a sequence
Attend = Callable[[Tensor, Tensor, Tensor, Mask | None], Tensor]  # q (1, H, T, K), k and v (1, G, T, K), None -> (1, H, T, K)


class Permuted(torch.autograd.Function):
    """x (T, D) -> x[there]; its gradient is a gather as well, and no sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return dy.index_select(0, ctx.back), None, None


class SlicedLinear(torch.autograd.Function):
    """y[t] = W_m x[t], x (T, D) in slices of `sizes` rows; every product writes its slice of the result, nothing is copied."""

    @staticmethod
    def forward(ctx: Any, sizes: list[int], x: Tensor, *weights: Tensor) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(x, *weights)
        y = x.new_empty(len(x), len(weights[0]))
        for part, out, w in zip(x.split(sizes), y.split(sizes), weights, strict=True):
            torch.mm(part, w.t(), out=out)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        dx, parts = torch.empty_like(x), list(zip(x.split(ctx.sizes), dy.split(ctx.sizes), strict=True))
        for (_, dpart), dout, w in zip(parts, dx.split(ctx.sizes), weights, strict=True):
            torch.mm(dpart, w, out=dout)
        return None, dx, *(dpart.t() @ part for part, dpart in parts)


def sliced_linear(x: Tensor, plan: Plan, weights: list[Tensor], backend: str) -> Tensor:
    return SlicedLinear.apply(list(plan.sizes or ()), x, *weights)  # type: ignore[no-untyped-call, no-any-return]


def sliced_experts(x: Tensor, plan: Plan, groups: list[GroupWeights], backend: str) -> Tensor:
    """The op of `bmm` without rows to gather: groups take slices of x as they lie."""
    stacks = [w for g in groups for w in g]
    y: Tensor = torch.ops.momafuse.experts_bmm(x, None, None, None, None, stacks, list(plan.sizes or ()), None)[0]
    return y


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


def fused_staircase(batch: Batch, span: Tensor) -> Attend:
    """FlexAttention: one long row of all sequences, whose blocks without a pair that sees the other are left out."""
    t, (b, length) = batch.order.numel(), batch.shape
    position = batch.position.flatten()[batch.order]
    apart = (span + length * torch.arange(b, device=span.device)[:, None]).flatten()[batch.order]  # no two sequences share one

    def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (apart[i] == apart[j]) & (position[j] <= position[i])

    mask = compiled(create_block_mask)(sees, None, None, t, t, batch.order.device)

    return lambda q, k, v, _: attend(q, k, v, mask)


def masked_staircase(batch: Batch, span: Tensor, dtype: torch.dtype) -> Attend:
    """torch's attention on (B, H, S, K) with a mask (B, 1, S, S) of 0 and -inf."""
    b, budget = batch.shape[0], batch.budget
    sizes = [b * n for n in budget]

    def by_sequence(x: Tensor) -> Tensor:
        parts = zip(x.flatten()[batch.order].split(sizes), budget, strict=True)
        return torch.cat([part.view(b, n) for part, n in parts], 1)

    p, s = by_sequence(batch.position), by_sequence(span)
    hidden = ((p[:, None, :] > p[:, :, None]) | (s[:, None, :] != s[:, :, None]))[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=p.device).masked_fill(hidden, float("-inf"))

    def of_sequences(x: Tensor) -> Tensor:
        parts = zip(x.split(sizes, 2), budget, strict=True)
        return torch.cat([part.unflatten(2, (b, n)) for part, n in parts], 3)[0].transpose(0, 1)

    def attend_by_sequence(q: Tensor, k: Tensor, v: Tensor, _: Mask | None) -> Tensor:
        parts = attend(of_sequences(q), of_sequences(k), of_sequences(v), mask).transpose(1, 2).split(budget, 1)
        return torch.cat([rows for part in parts for rows in part.unbind()]).transpose(0, 1)[None]

    return attend_by_sequence


def staircase(batch: Batch, masks: bool, dtype: torch.dtype) -> Attend:
    """The attention of a batch's rows in modality order, its mask made; the batch is in sequence order.

    `masks`: rows see their own document only.
    """
    span = batch.document if masks else torch.zeros_like(batch.document)
    return fused_staircase(batch, span) if batch.order.is_cuda else masked_staircase(batch, span, dtype)


def by_modality(model: Transformer, batch: Batch, dtype: torch.dtype, objective: Objective[T]) -> T:
    """What the objective makes of the last rows, in sequence order as in `model(batch, objective)`."""
    there = batch.order
    here = torch.arange(len(there), device=there.device)
    back = torch.empty_like(there).scatter_(0, there, here)
    names = ("tokens", "modality", "position")  # all that a model without routers reads, but for the mask, which is made here
    masks = model.config.attention.document_mask
    moved = {name: getattr(batch, name).flatten()[there][None] for name in names}
    budget = tuple(batch.shape[0] * n for n in batch.budget)
    with (
        patch.object(attention, "attend", staircase(batch, masks, dtype)),
        patch.object(Recipe, "mask", lambda *_: None),
        patch.object(experts, "apply_experts", sliced_experts),
        patch.object(linear, "apply_linear", sliced_linear),
    ):
        moved_batch = replace(batch, **moved, order=here, budget=budget)
        return model(moved_batch, lambda h, head: objective(Permuted.apply(h, back, there), head))[0]  # type: ignore[no-untyped-call, no-any-return]


def in_sequence(model: Transformer, batch: Batch, dtype: torch.dtype, objective: Objective[T]) -> T:
    return model(batch, objective)[0]  # type: ignore[no-any-return]


ORDERS = {"sequence": in_sequence, "modality": by_modality}


def check(model: Transformer) -> None:
    """Raises UserError where routers choose among rows, or no slice is served by one matrix."""
    c, alone = model.config, [(m,) for m in range(len(model.modality_names))]
    every = all(c.has_experts(layer) for layer in range(c.n_layers))
    if model.routes or not every or [g.modalities for g in model.groups] != alone:
        needs = "one expert for each modality in every layer and no router"
        raise UserError(f"{c.name}: modality order is for models of {needs}, as moe_1t1i and mot")


def interleaved(batch: Batch) -> Batch:
    """The rows of each sequence in stretches whose order is drawn; targets are left as they are, for nobody reads them."""
    b, s = batch.shape
    keys = torch.rand(b, STRETCHES + 1, generator=torch.Generator().manual_seed(0))
    stretch = torch.arange(s) // (s // STRETCHES)
    drawn = keys[:, stretch].argsort(dim=1, stable=True)
    modality = batch.modality.gather(1, drawn)
    order = modality.flatten().argsort(stable=True)
    document = stretch.to(torch.int32).expand(b, s).contiguous()
    return replace(batch, tokens=batch.tokens.gather(1, drawn), modality=modality, order=order, document=document)


def difference(model: Transformer, batch: Batch, dtype: torch.dtype) -> float:
    found = []
    for forward in ORDERS.values():
        model.zero_grad(set_to_none=True)
        y = forward(model, batch, dtype, lambda hidden, head: hidden)
        (y.double() * torch.linspace(-1, 1, y.numel(), device=y.device, dtype=torch.double).view_as(y)).sum().backward()
        found.append([y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    model.zero_grad(set_to_none=True)
    pairs = zip(*found, strict=True)
    return max(float((b.double() - a.double()).norm() / a.double().norm()) for a, b in pairs)


def actions_of(model: Transformer, batch: Batch, dtype: torch.dtype) -> dict[tuple[str, str], Callable[[], object]]:
    """What is timed, by kind and order."""
    device, layer = batch.order.device, model.blocks[0].attention
    (b, s), width, masks = batch.shape, model.config.dim // layer.heads, model.config.attention.document_mask
    in_order = model.recipe.mask(batch.document, width, dtype) if masks else None

    def blocks(order: str) -> None:
        ORDERS[order](model, batch, dtype, lambda hidden, head: hidden.float().mean()).backward()
        model.zero_grad(set_to_none=True)

    def attend_alone(order: str) -> Callable[[], object]:
        shape = (1, b * s) if order == "modality" else (b, s)
        q, k, v = (
            torch.randn(*shape, h, width, device=device, dtype=dtype).transpose(1, 2).requires_grad_()
            for h in (layer.heads, layer.kv_heads, layer.kv_heads)
        )
        by, mask = (staircase(batch, masks, dtype), None) if order == "modality" else (attend, in_order)
        direction = torch.randn(*shape, layer.heads, width, device=device, dtype=dtype).transpose(1, 2)
        return lambda: torch.autograd.grad(by(q, k, v, mask), (q, k, v), direction)

    found: dict[tuple[str, str], Callable[[], object]] = {}
    for order in ORDERS:
        found["blocks", order] = lambda order=order: blocks(order)  # type: ignore[misc]
        found["attention", order] = attend_alone(order)
    return found | {("mask", "modality"): lambda: staircase(batch, masks, dtype)}


def measure(experiment: str, overrides: list[str], rounds: int, console: Console) -> dict[str, Any]:
    config = compose([f"+experiment={experiment}", *overrides]).config
    device = resolve_device(config.trainer.device)
    model, dtype = build_model(config, STARTER, World(0, 1, device, None, None))
    check(model)
    batch = interleaved(random_batch(config, STARTER)).to(device)
    row: dict[str, Any] = {"experiment": experiment, "dtype": str(dtype).removeprefix("torch.")}
    row["difference"] = float(f"{difference(model, batch, dtype):.2g}")
    actions = actions_of(model, batch, dtype)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in actions}
    for i in track(range(-2, rounds), experiment, console=console, disable=not sys.stderr.isatty()):
        for key in sorted(actions, reverse=bool(i % 2)):  # the orders of a kind stand side by side
            taken = seconds(lambda key=key: (actions[key](), wait(device)))  # type: ignore[misc]
            if i >= 0:  # the first two warm up
                times[key].append(taken)
    ms = {key: round(1e3 * statistics.median(t), 4) for key, t in times.items()}
    for kind in ("blocks", "attention"):
        pairs = zip(times[kind, "modality"], times[kind, "sequence"], strict=True)
        row[f"{kind}_ms"] = [ms[kind, order] for order in ORDERS]
        row[f"{kind}_ratio"] = round(statistics.median(a / b for a, b in pairs), 4)
    return row | {"mask_ms": ms["mask", "modality"]}


def table(rows: list[dict[str, Any]]) -> Table:
    heads = "difference", "blocks ms (sequence, modality)", "ratio", "attention ms", "ratio", "mask ms"
    shown = Table("experiment", "dtype", *heads)
    for r in rows:
        shown.add_row(*(", ".join(f"{v:.2f}" for v in c) if isinstance(c, list) else str(c) for c in r.values()))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=["moe_1t1i", "mot"])
    parser.add_argument("--size", default="nano")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides, as for momafuse.train")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes")
    args = parser.parse_args()
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 140)
    words = [f"size={args.size}", f"trainer.precision={args.precision}", *args.set]
    try:
        rows = [measure(name, words, args.rounds, console) for name in args.experiments]
    except UserError as error:
        raise SystemExit(f"bench_order: error: {error}") from None
    console.print(table(rows))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = {"size": args.size, "device": name, "threads": torch.get_num_threads(), "rounds": args.rounds}
    text = json.dumps({"rows": rows} | facts | {"torch": torch.__version__}, indent=1)
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
