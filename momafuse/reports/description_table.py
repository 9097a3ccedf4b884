"""The description of a model (description.py) as one screen of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from momafuse.reports.flops import EXPERTS
from momafuse.reports.gpus import GPUS

Values = dict[str, Any]

GIB = 2**30
PARTS = (  # in the order of the table
    "embedding", "norms", "untied_norms", "attention_projections", "attention_scores", "depth_router", "router",
    EXPERTS, "ffn_between", "head",
)  # fmt: skip
NAMES = {
    "attention_scores": "attention scores and values",
    "ffn_between": "dense FFN between",
    "untied_norms": "scales of untied norms",
    "inputs": "batch and noise",
    "weight_copies": "copies of weights for products",
    "head_and_loss": "head and loss, with its gradients",
}


def description_table(d: Values) -> RenderableType:
    """Renders what `description.describe` returns."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    for label, text in (*_architecture(d), ("", ""), *_flops(d), *_causal(d), *_unknown(d), *_batch(d)):
        facts.add_row(label, Text(text))
    tables = Columns([_parts(d), _memory(d)], padding=(0, 3))  # below one another where the terminal is narrow
    m = d["model"]
    title = f"{d['name']}, size={d['size']}: {m['layers']} layers of width {m['dim']:,}, {m['vocabulary']:,} ids, "
    plan = [_scaling(d["scaling"])] if "scaling" in d else []
    return Group(
        Text(title + f"norms {'after' if m['placement'] == 'swin' else 'before'} the sub-layers"), facts, tables, *plan
    )


def _architecture(d: Values) -> list[tuple[str, str]]:
    """Layers in runs, what they are made of, and the attention."""
    rows: list[tuple[str, str]] = []
    for run in d["layers"]:
        kept = f"depth {run['rows_share']:.3g} of the rows, then " if run["depth"] else ""
        what = "experts" if run["experts"] else "one dense FFN"
        rows.append(("layers" if not rows else "", f"{numbers(run['numbers'])}: {kept}{what}"))
        for name, g in run["groups"].items():
            about = "" if g["rows_are_exact"] else "about "
            taken = f"takes {about}{g['rows_per_expert']:,.0f} of the {run['rows']:,} rows of a pool"
            rows.append(("", f"  {name}: {g['experts']} x {g['width']:,} for {' and '.join(g['serves'])}; each {taken}"))
    a, m = d["model"]["attention"], d["model"]
    untied = f"{', '.join(m['untied'])} ({', '.join(m['towers'])})" if m["untied"] else "nothing"
    norm = a["qk_norm"] + (" with weights for every head" if a["qk_norm_per_head"] else "")
    heads = f"{a['heads']} heads of {a['head_dim']}, {a['kv_heads']} of keys and values, QK-norm {norm}"
    sees = "its own document" if a["document_mask"] else "the sequence"
    rows.append(("attention", f"{heads}; a token sees {sees}; untied: {untied}"))
    return rows


def _flops(d: Values) -> list[tuple[str, str]]:
    f = d["flops_per_token"]
    rows = [("FLOPs", f"{big(f['forward'])} a token forward, {big(f['training'])} in training (3 x forward)")]
    if f["recomputation"]:
        rows.append(("", f"{big(f['recomputation'])} more are computed again under activation checkpointing"))
    dense = f"dense at size={f['dense_size']}"
    if f["ratio_to_dense"] is None:
        return [*rows, ("", f"{dense} does not compose with these overrides: no ratio")]
    return [*rows, ("", f"{f['ratio_to_dense']:.4f} x {dense} ({big(f['dense_forward'])})")]


def _causal(d: Values) -> list[tuple[str, str]]:
    if d["causal_training"]:
        return [("causal", "training is causal: nothing that a token meets depends on later ones")]
    who = {"experts": "experts choose", "capacity": "a capacity drops", "depth": "depth routers keep"}
    chosen = [f"{who[name]} among the rows of {_sequences(n)}" for name, n in d["chosen_among_sequences"].items()]
    return [
        ("causal", f"training is not causal: {', '.join(chosen)}, later rows too:"),
        ("", "an evaluation under training routing sees the future"),
    ]


def _unknown(d: Values) -> list[tuple[str, str]]:
    unknown = d["memory"]["unknown"]
    return [] if unknown is None else [("memory", f"of activations is not known before running: {unknown}")]


def _batch(d: Values) -> list[tuple[str, str]]:
    said = d["batch"]["in_place"]
    return [("batch", said)] if said else []


def _sequences(n: int) -> str:
    return "one sequence" if n == 1 else f"{n} sequences"


def _parts(d: Values) -> Table:
    parameters, flops = d["parameters"]["by_part"], d["flops_per_token"]["by_part"]
    table = Table("part", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("parameters", "active", "FLOPs a token", "share"):
        table.add_column(heading, justify="right")
    found = parameters.keys() | flops.keys()
    for part in (p for kind in PARTS for p in sorted(found) if p == kind or (kind == EXPERTS and p.startswith(EXPERTS))):
        p, f = parameters.get(part), flops.get(part)
        counts = ("", "") if p is None else (count(p["total"]), count(p["active"]))
        products = ("", "") if f is None else (big(f), f"{f / d['flops_per_token']['forward']:.1%}")
        table.add_row(_name(part), *counts, *products)
    table.add_section()
    p = d["parameters"]
    table.add_row("all", count(p["total"]), count(p["active"]), big(d["flops_per_token"]["forward"]), "")
    return table


def _memory(d: Values) -> Table:
    m, batch = d["memory"], d["batch"]
    table = Table(f"memory for {batch['sequences']} x {batch['sequence_length']:,} tokens", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("GiB", justify="right")
    for name in ("weights", "gradients", "optimizer"):
        table.add_row(f"{name}, fp32", _gib(m[name]))
    if m["activations"] is None:
        table.add_row("activations", "?")
        return table
    table.add_row(f"activations, {m['precision']} on {m['device']}", _gib(m["activations_total"]))
    for part, n in m["activations"].items():
        table.add_row(f"  {_name(part)}", _gib(n))
    table.add_section()
    table.add_row("peak of a step, all together", _gib(m["peak"]))
    return table


def _scaling(s: Values) -> RenderableType:
    """The plan for many GPUs, as lines."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    shared = f"sharded over {s['shards']:,}" + (f", {s['replicas']:,} replicas" if s["replicas"] > 1 else "")
    title = (
        f"computed, not measured: {s['nodes']:,} nodes, {s['ranks']:,} ranks, {shared}; {s['micro_batches']:,} micro-batches"
    )
    parts = {part: n for part, n in s["memory"].items() if part != "total"}
    known = ", ".join(f"{_name(part)} {'?' if n is None else _gib(n)}" for part, n in parts.items())
    total = s["memory"]["total"]
    facts.add_row("a rank's memory", f"{'?' if total is None else _gib(total)} GiB: {known}")
    room = GPUS[s["gpu"]].memory if s["gpu"] else None
    if room is not None and total is not None and total > room:
        remedies = "more GPUs, a smaller trainer.micro_batch or trainer.activation_checkpointing=full"
        facts.add_row("", Text(f"does not fit in the {room / 1e9:g} GB of one: {remedies}", style="red"))
    for collective, sizes in s["bytes_received"].items():
        for dtype, n in sizes.items():
            facts.add_row(_name(collective), f"{_gib(n)} GiB a step received by a rank, and sent, in {dtype}")
    if "seconds" in s:
        t = s["seconds"]
        about = f"{s['gpu']} at {s['efficiency']:.0%} of its peak where nothing is waited for"
        facts.add_row(
            "a step", f"{t['step']:.3g} s: compute {t['compute']:.3g}, communication {t['communication']:.3g} ({about})"
        )
        facts.add_row("", f"MFU {t['mfu']:.1%}, {t['tokens_per_second_per_gpu']:,.0f} tokens/s a GPU")
    return Group(Text(title), facts)


def _name(part: str) -> str:
    return NAMES.get(part, part.replace(".", " ").replace("_", " "))


def _gib(n: int) -> str:
    return f"{n / GIB:,.2f}"


def big(n: float) -> str:
    """Four digits and K, M, G or T."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= size:
            return f"{n / size:.4g} {unit}"
    return f"{n:.4g}"


def count(n: float) -> str:
    """The same for parameters, where a thousand million is B."""
    return big(n).replace("G", "B")


def numbers(values: Sequence[int]) -> str:
    """0, 1, 2, 3 -> `0-3`; 0, 2, 4, 6 -> `0, 2 .. 6`; others one by one."""
    steps = {b - a for a, b in pairwise(values)}
    if len(values) > 3 and len(steps) == 1:
        return f"{values[0]}-{values[-1]}" if steps == {1} else f"{values[0]}, {values[1]} .. {values[-1]}"
    return ", ".join(map(str, values))
