"""The tables of docs/zoo.md: every member of configs/experiment, and every size, as `python -m momafuse.describe` counts them.

Members are described at size=435m, those of a mixture of depths at size=435m_mod, which is to cost what a dense 435m costs.
The line on a member is the first sentence of the comment in its file. Counts nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momafuse.config.compose import compose, compose_jobs, members
from momafuse.config.describe import DescribeConfig
from momafuse.describe import description

EXPERIMENTS = Path(__file__).resolve().parents[2] / "configs" / "experiment"
SECTIONS = {  # heading of docs/zoo.md -> its members; one that is named nowhere comes last
    "dense": ("dense",),
    "one-ffn-a-modality": ("moe_1t1i", "mot_ffn_only"),
    "experts-of-a-modality": ("moma_4t4i", "moma_2t2i", "moma_6t2i", "moma_7t1i", "moma_3t5i", "moma_1t7i"),
    "experts-of-all-tokens": ("moe_8x",),
    "tokens-that-choose": ("moe_token_choice", "moe_top2", "moe_loss_free", "limoe_router", "moma_threshold"),
    "mixture-of-depths": ("mod_dense", "mod_moe_1t1i", "mod_moma_4t4i"),
    "mixture-of-transformers": ("mot", "mot_text_moe4"),
}


@dataclass(frozen=True)
class Row:
    """One row of Table 1 of MoMa (arXiv 2407.21770), the parameters as printed there."""

    printed: str
    printed_experts: str  # with eight experts


SIZES = {
    "pico": None,
    "nano": None,
    "nano_mod": None,
    "90m": Row("90M", "210M"),
    "90m_mod": Row("110M", "317M"),
    "435m": Row("435M", "1.9B"),
    "435m_mod": Row("635M", "3B"),
    "1_4b": Row("1.4B", "7.1B"),
    "1_4b_mod": Row("2.3B", "12B"),
}


def described(experiment: str, size: str) -> dict[str, Any]:
    words = [f"+experiment={experiment}", f"size={size}", "format=json", "trainer=cpu"]
    return description(compose_jobs(words, "describe", DescribeConfig)[0])


def member_table() -> str:
    """A line for each member."""
    anchors = {name: section for section, names in SECTIONS.items() for name in names}
    names = list(anchors) + [name for name in members() if name not in anchors]
    lines = [
        "| `+experiment=` | what it is | parameters | active | FLOPs / dense | causal training |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        values = described(name, "435m_mod" if name.startswith("mod_") else "435m")
        parameters, flops = values["parameters"], values["flops_per_token"]["ratio_to_dense"]
        link = f"[`{name}`](#{anchors[name]})" if name in anchors else f"`{name}`"
        cells = [link, sentence(name), count(parameters["total"]), count(parameters["active"]), f"{flops:.3f}"]
        lines.append(f"| {' | '.join(cells)} | {'yes' if values['causal_training'] else 'no'} |")
    return "\n".join(lines)


def sentence(experiment: str) -> str:
    """What an experiment's file says first of itself, after the package line and the command."""
    comment = (EXPERIMENTS / f"{experiment}.yaml").read_text().splitlines()[2]
    return comment.removeprefix("# ").partition(". ")[0].rstrip(".")


def count(n: float) -> str:
    """In the papers' letters."""
    return f"{n / 1e9:.2f}B" if n >= 1e9 else f"{n / 1e6:.1f}M"


def power(x: float) -> str:
    """1e-4 instead of 0.0001."""
    return f"{x:.0e}".replace("e-0", "e-")


def size_table() -> str:
    """A line for each size: its shape, its counts, and its recipe."""
    lines = [
        "| `size=` | layers, width, heads, FFN (expert) | dense | 4t4i | FLOPs / dense | learning rate | warm-up | "
        "tokens a step | steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size, row in SIZES.items():
        prefix = "mod_" if size.endswith("_mod") else ""
        dense, experts = described(f"{prefix}dense", size), described(f"{prefix}moma_4t4i", size)
        config = compose([f"+experiment={prefix}dense", f"size={size}"]).config
        m, o, t = config.model, config.optim, config.trainer
        width = experts["layers"][0]["groups"]["text"]["width"]
        totals = [count(v["parameters"]["total"]) for v in (dense, experts)]
        if row is not None:
            totals = [f"{totals[0]} ({row.printed})", f"{totals[1]} ({row.printed_experts})"]
        cells = [
            f"`{size}`",
            f"{m.n_layers}, {m.dim:,}, {m.n_heads}, {m.ffn:,} ({width:,})",
            *totals,
            f"{dense['flops_per_token']['ratio_to_dense']:.3f}",
            f"{power(o.lr)} to {power(o.lr_end)}, {o.schedule}",
            f"{o.warmup_steps:,}",
            f"{t.global_batch * config.data.sequence_length:,}",
            f"{t.max_steps:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"members": member_table, "sizes": size_table}
