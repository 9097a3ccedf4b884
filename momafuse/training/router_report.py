"""What the routers of a run did with its held-out rows: counted while they are evaluated, then told as a report and a summary.

`report.json` holds it as `router`, an entry for each layer and routed group (routing/report.py says what is what; experts in
order of number, shares rounded to four digits):

    layer, group, experts, modalities
    load {MODALITY: rows of each expert}     chosen {MODALITY: shares of rows with 0, 1, 2 or more experts}
    success, dropped, entropy {MODALITY: share of rows, share of choices, nats; no entropy where nothing is scored}
    unused, similarity                       share of the group's places; a cosine
    explained, divergence, nmi               of the layer, all its experts together; the last two with two modalities or more

and an evaluation's row of metrics.jsonl means over layers, as `eval/router/NAME`. The routing is the evaluation's own: what a
capacity would drop in training is dropped only under training routing, and `train` rows count it (router/none_MODALITY).
Gradient norms of routers are those of the step (train/router_grad_norm). Draws nothing (routing_shown.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from momafuse.models.transformer import Transformer
from momafuse.routing.kinds import KINDS, TOKEN_CHOICE
from momafuse.routing.report import RouterSums, apart, counting, unused_capacity

DIGITS = 4


def entries(
    model: Transformer,
    layers: Sequence[int],
    sums: RouterSums,
    shares: Sequence[float],
    alike: Sequence[Sequence[float]],
) -> list[dict[str, Any]]:
    """Of report.json, from the sums of all ranks over routed `layers`, on the host; `shares` of every layer as `explained`
    gives them, `alike` (L, G) as `similarity` does."""
    groups, router = model.groups, model.router
    per_row = KINDS[router.kind].per_row(router)
    if router.kind == TOKEN_CHOICE and not router.dropless:
        per_row *= router.capacity_factor
    found, scored = [], KINDS[router.kind].scores
    for at, layer in enumerate(layers):
        load = sums.load[at]
        between = apart(load[counting(groups)])
        of_layer = {"explained": _round(shares[layer])}
        if between is not None:
            of_layer |= {"divergence": _round(between[0]), "nmi": _round(between[1])}
        first, nth = 0, 0
        for g in groups:
            if g.experts > 1:
                entry = _entry(model, layer, nth, load[first : first + g.experts], sums, at, scored)
                rows = float(sums.times[at, nth].sum())
                unused = unused_capacity(load[first : first + g.experts].sum(1), rows, per_row)
                found.append(entry | {"unused": _round(unused), "similarity": _round(alike[at][nth])} | of_layer)
                nth += 1
            first += g.experts
    return found


def _entry(model: Transformer, layer: int, nth: int, load: Tensor, sums: RouterSums, at: int, scored: bool) -> dict[str, Any]:
    """What differs between modalities, load (E, M) of the group."""
    g = [g for g in model.groups if g.experts > 1][nth]
    entry: dict[str, Any] = {"layer": layer, "group": g.name, "experts": g.experts}
    names = {m: model.modality_names[m] for m in g.modalities}
    entry["modalities"] = list(names.values())
    for key in ("load", "chosen", "success", "dropped", *(["entropy"] if scored else [])):
        entry[key] = {}
    for m, name in names.items():
        times = sums.times[at, nth, m]
        if rows := float(times.sum()):
            entry["load"][name] = [int(n) for n in load[:, m].tolist()]
            entry["chosen"][name] = [_round(n / rows) for n in times.tolist()]
            entry["success"][name] = _round(1 - float(times[0]) / rows)
            lost = float(sums.dropped[at, nth, m])
            entry["dropped"][name] = _round(lost / max(1.0, lost + float(load[:, m].sum())))
            if scored:
                entry["entropy"][name] = _round(float(sums.entropy[at, nth, m]) / rows)
    return entry


def summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`eval/router/NAME`: means over layers and groups; `max_load` is the largest of all over its even one."""
    found: dict[str, list[float]] = {}
    for e in entries:
        for name in ("unused", "similarity", "explained", "divergence", "nmi"):
            if name in e:
                found.setdefault(name, []).append(e[name])
        for name in ("success", "entropy"):
            for modality, value in e.get(name, {}).items():
                found.setdefault(f"{name}_{modality}", []).append(value)
    means = {f"eval/router/{name}": sum(values) / len(values) for name, values in found.items()}
    loads = [over_even(e) for e in entries]
    return means | {"eval/router/max_load": max(max(load) for load in loads)}


def over_even(entry: Mapping[str, Any]) -> list[float]:
    """The load of each expert of an entry over the even one; 1 where nothing was routed."""
    load = [sum(of_expert) for of_expert in zip(*entry["load"].values(), strict=True)]
    total = sum(load)
    return [n * len(load) / total for n in load] if total else [1.0] * entry["experts"]


def written(report: Mapping[str, Any]) -> str:
    """report.json: what it holds of routers stands an entry a line."""
    plain = json.dumps({key: value for key, value in report.items() if key != "router"}, indent=1)
    if "router" not in report:
        return plain + "\n"
    entries = ",\n  ".join(json.dumps(entry) for entry in report["router"])
    return plain.removesuffix("\n}") + f',\n "router": [\n  {entries}\n ]\n}}\n'


def _round(x: float) -> float:
    return round(x, DIGITS) + 0.0  # no -0.0
