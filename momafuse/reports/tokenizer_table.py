"""The description of a tokenizer (tokenizer.py) as one screen of text."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from momafuse.reports.description_table import big, count
from momafuse.reports.tokenizer import Values

MIB = 2**20
STATE = {"weights": "weights, codes", "gradients": "gradients", "optimizer": "optimizer", "average": "average of the weights"}
WAYS = {"fp32": "fp32", "bf16_cpu": "bf16, CPU", "bf16_cuda": "bf16, CUDA"}


def tokenizer_table(d: Values) -> RenderableType:
    """Renders what `tokenizer.describe_tokenizer` returns."""
    item, codes, flops, step = d["item"], d["codes"], d["flops"], d["flops"]["step"]
    batch = f"{d['batch']} {item['is']}s"
    shape, grid = (" x ".join(map(str, item[key])) for key in ("shape", "grid"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    facts.add_row(item["is"], f"{shape} becomes {grid} codes: {item['codes']:,} codes, {item['bits']:,.0f} bits")
    facts.add_row("codes", f"{codes['number']:,} of {codes['dim']} numbers: {codes['kind']}, {codes['space']}")
    facts.add_row("FLOPs", f"{big(flops['encoding'])} to encode one {item['is']}, {big(flops['decoding'])} to decode it")
    parts = f"forward {big(step['forward'])}, backward {big(step['backward'])}, Muon {big(step['optimizer'])}"
    facts.add_row("", f"{big(step['total'])} a training step of {batch}: {parts}")
    tables = Columns([_parts(d), _memory(d)], padding=(0, 3))  # below one another where the terminal is narrow
    return Group(Text(d["name"]), facts, tables)


def _parts(d: Values) -> Table:
    parameters, flops = d["parameters"], d["flops"]["by_part"]
    table = Table("part", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("parameters", f"FLOPs per {d['item']['is']}"):
        table.add_column(heading, justify="right")
    for part, n in flops.items():
        numbers = parameters["by_part"].get(part)
        table.add_row(part, "" if numbers is None else count(numbers), big(n))
    table.add_section()
    table.add_row("all", count(parameters["total"]), big(sum(flops.values())))
    return table


def _memory(d: Values) -> Table:
    m = d["memory"]
    table = Table(f"MiB for a step of {d['batch']} {d['item']['is']}s", box=SIMPLE_HEAD, pad_edge=False)
    for way in m["ways"]:
        table.add_column(WAYS[way], justify="right")

    def row(label: str, *sizes: int) -> None:
        table.add_row(label, *(f"{n / MIB:,.0f}" for n in sizes))

    for key, label in STATE.items():
        row(f"{label}, fp32", *[m[key]] * len(m["ways"]))
    row("activations", *(way["activations"] for way in m["ways"].values()))
    for part in next(iter(m["ways"].values()))["by_part"]:
        row(f"  {part.replace('_', ' ')}", *(way["by_part"][part] for way in m["ways"].values()))
    table.add_section()
    row("peak of a step, all together", *(way["peak"] for way in m["ways"].values()))
    return table
