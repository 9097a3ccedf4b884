"""The card of an exported model (README.md): what it is, how it was trained, its losses, how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from momafuse.exchange.run import Run
from momafuse.reports.metrics import read_report
from momafuse.routing.names import ALL, SHARED

LOADS = {
    "chameleon": """```python
from transformers import AutoTokenizer, ChameleonForConditionalGeneration

model = ChameleonForConditionalGeneration.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```

transformers gives text alone: its class leaves image codes out and has no decoder for pictures. To train it further, or to
draw pictures where its tokenizer has a decoder: `python -m momafuse.import_ from=FOLDER`.""",
    "momafuse": """```python
import momafuse

model = momafuse.load(FOLDER)  # generate, score, logits, encode_image, ...
```

or, with transformers (text, without kept keys and values):

```python
import momafuse.huggingface  # registers the Auto classes
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```""",
}

BLIND = "Its routers see the future, and it has no auxiliary ones: nothing can be asked of it (`+experiment=aux_routers`)."


def card(run: Run, form: str, parameters: int, names: Sequence[str]) -> str:
    """Markdown; a figure that the run does not have is not in it."""
    m, name = run.config.model, run.config.run.name
    tags = ["momafuse", m.name, "mixture-of-experts" if run.config.routed else "dense"]
    front = [
        "---",
        f"library_name: {'transformers' if form == 'chameleon' else 'momafuse'}",
        "tags:",
        *(f"- {t}" for t in dict.fromkeys(tags)),
    ]
    served = {*names, ALL, SHARED}
    there = m.groups(run.vocabulary.names).items()
    groups = ", ".join(f"{n} {group}" for group, n in there if served & {*group.split("+")})
    blind = run.config.needs_auxiliary and not run.config.router.auxiliary
    lines = [
        f"A `{m.name}` of {parameters:,} parameters over {' and '.join(names)}, exported from the momafuse run `{name}`.",
        "",
        "| | |",
        "|---|---|",
        f"| layers, width, heads | {m.n_layers}, {m.dim}, {m.n_heads} |",
        f"| experts | {groups} |",
        f"| ids | {run.vocabulary.size:,}, sequences of {run.config.data.sequence_length:,} |",
        *_figures(run),
    ]
    loads = BLIND if blind else LOADS[form]
    return "\n".join([*front, "---", "", f"# {name}", "", *lines, "", "## Loading", "", loads, ""])


def _figures(run: Run) -> list[str]:
    state = json.loads((run.checkpoint / "state.json").read_text())
    if origin := state.get("imported"):
        return [f"| weights | imported from a {origin['kind']}, not trained since |"]
    rows = [f"| trained | {state['step']:,} steps, {state['tokens']:,} tokens, {state['flops']:.3g} FLOPs |"]
    figures = read_report(run.folder)
    if figures.get("steps") != state["step"]:
        return rows  # of another checkpoint
    losses = [f"{key.removeprefix('eval/loss_')} {v:.3f}" for key, v in figures.items() if key.startswith("eval/loss_")]
    rows.append(f"| held-out loss, nats | {', '.join(losses)} ({figures['eval/routing']} routing) |")
    frequencies = [f"{key.removeprefix('unigram/')} {v:.3f}" for key, v in figures.items() if key.startswith("unigram/")]
    return [*rows, f"| the same of a table of frequencies | {', '.join(frequencies)} |"]
