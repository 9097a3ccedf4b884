"""The losses that routers have of their own, as functions of sums over rows, so that they are those of the global batch.

Of a layer and a group of E experts, with p_e(x) the softmax of the logits over the group's experts, f_e the share of all
choices that are e's, P_e the mean of p_e over the rows:

    balance      E sum_e f_e P_e                                   (Switch, 2101.03961; GShard, 2006.16668), 1 at an even load
    importance   CV^2 of P_e = variance over e / mean^2             (V-MoE, 2106.05974)
    load         CV^2 of mean Phi((z_e - t(x)) E)                   (V-MoE: t the least noisy logit chosen, noise of 1 / E)
    z            mean (log sum_e exp z_e)^2                         (ST-MoE, 2202.08906)
    local_m      mean over the rows of modality m of H(p(x))        (LIMoE, 2206.02770: each token sure)
    global_m     max(0, log S_m - H(mean of p over the rows of m))  (LIMoE: together at least S experts, softly)

Each is a mean over layers and groups that have rows; with `by_modality` the first three are means over modalities, too. The
gradient of a loss that is a function of sums over all rows is its slope at these sums times the gradient of a part's own sums,
so a micro-batch needs only them: `of_part`. Shape legend: T rows, N experts of the routed groups, M modalities, L layers.
Does not know ranks (training/routers.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from momafuse.routing.auxiliary import taken_by
from momafuse.routing.config import RouterLossConfig
from momafuse.routing.plan import Group, Plan, of_routed, served
from momafuse.routing.rows import Rows

TINY = 1e-10


@dataclass(frozen=True)
class Sums:
    """Of L layers, fp32 or wider. `of` and `flat` turn them into one tensor and back."""

    probability: Tensor  # (L, M, N) of p
    choices: Tensor  # (L, M, N) rows that chose, or were chosen, before any was dropped
    likely: Tensor  # (L, M, N) chances that noise would choose; 0 without noise
    rows: Tensor  # (L, M, G)
    z: Tensor  # (L, M, G) of squares
    entropy: Tensor  # (L, M, G)

    def flat(self) -> Tensor:
        return torch.cat([getattr(self, name).flatten() for name in FIELDS])


FIELDS = ("probability", "choices", "likely", "rows", "z", "entropy")


@dataclass(frozen=True)
class RouterLosses:
    config: RouterLossConfig
    members: tuple[Group, ...]  # all groups of a layer
    modalities: tuple[str, ...]

    @property
    def groups(self) -> list[Group]:
        return [g for g in self.members if g.experts > 1]

    @property
    def columns(self) -> list[slice]:
        """Those of each routed group among the N."""
        ends = [sum(g.experts for g in self.groups[: i + 1]) for i in range(len(self.groups))]
        return [slice(end - g.experts, end) for g, end in zip(self.groups, ends, strict=True)]

    def sums(self, plans: Sequence[tuple[Plan, Rows]]) -> Sums:
        """Of the plans of L layers and their rows; `probability`, `likely`, `z` and `entropy` are differentiable."""
        layers = [self._layer(plan, rows) for plan, rows in plans]
        return Sums(*[torch.stack(parts) for parts in zip(*layers, strict=True)])

    def unflattened(self, flat: Tensor) -> Sums:
        """The sums of `Sums.flat`."""
        m, n, g = len(self.modalities), sum(g.experts for g in self.groups), len(self.groups)
        layers = flat.numel() // (3 * m * (n + g))
        shapes = [(layers, m, n)] * 3 + [(layers, m, g)] * 3
        parts = torch.split(flat, [math.prod(shape) for shape in shapes])
        return Sums(*[part.view(shape) for part, shape in zip(parts, shapes, strict=True)])

    def _layer(self, plan: Plan, rows: Rows) -> list[Tensor]:
        assert plan.scores is not None
        logits, chosen, cut = plan.scores.logits, plan.scores.chosen, plan.scores.cut
        mine = served(self.groups, rows).t()
        if chosen is None:
            chosen = of_routed(taken_by(plan, len(logits)), self.members)
        numbers = torch.arange(len(self.modalities), device=logits.device)
        one_hot = (rows.modality.flatten() == numbers[:, None]).to(logits.dtype)  # (M, T)
        p, likely, per_group = torch.zeros_like(logits), torch.zeros_like(logits), []
        for g, columns_of in zip(self.groups, self.columns, strict=True):
            z, here = logits[:, columns_of], mine[:, columns_of.start].unsqueeze(1)
            total = torch.logsumexp(z, dim=1, keepdim=True)
            own = torch.exp(z - total) * here
            p = torch.cat([p[:, : columns_of.start], own, p[:, columns_of.stop :]], dim=1)
            entropy = total[:, 0] * here[:, 0] - (own * z).sum(1)  # H = log sum exp z - sum p z
            per_group.append(torch.stack([here[:, 0].to(z.dtype), total[:, 0] ** 2 * here[:, 0], entropy]))
            if cut is not None and self.config.load:
                chance = torch.special.ndtr((z - cut.unsqueeze(1)) * g.experts) * here
                likely = torch.cat([likely[:, : columns_of.start], chance, likely[:, columns_of.stop :]], dim=1)
        rows_z_h = torch.stack([one_hot @ part.t() for part in per_group], dim=2)  # (M, 3, G)
        counted = one_hot @ (chosen & mine).to(logits.dtype)
        return [one_hot @ p, counted, one_hot @ likely, *rows_z_h.unbind(1)]

    def values(self, s: Sums) -> dict[str, Tensor]:
        """Every loss, unweighted, from the sums of all rows: a scalar each."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}  # name -> values and whether they count, (L,) or (L, M)

        def add(name: str, value: Tensor, counts: Tensor) -> None:
            found.setdefault(name, []).append((value, counts))

        for i, (g, columns) in enumerate(zip(self.groups, self.columns, strict=True)):
            cells = (s.probability[..., columns], s.choices[..., columns], s.likely[..., columns], s.rows[..., i])
            if not self.config.by_modality:
                cells = (cells[0].sum(1), cells[1].sum(1), cells[2].sum(1), cells[3].sum(1))
            probability, choices, likely, n = cells
            there, n = n > 0, n.clamp(min=1)
            mean = probability / n.unsqueeze(-1)
            share = choices / choices.sum(-1, keepdim=True).clamp(min=1)
            add("balance", g.experts * (share * mean).sum(-1), there)
            add("importance", variation(mean), there)
            if self.config.load:
                add("load", variation(likely / n.unsqueeze(-1)), there)
            rows = s.rows[..., i].sum(1)
            add("z", s.z[..., i].sum(1) / rows.clamp(min=1), rows > 0)
            for m in g.modalities:
                name, there, n = self.modalities[m], s.rows[:, m, i] > 0, s.rows[:, m, i].clamp(min=1)
                add(f"local_entropy_{name}", s.entropy[:, m, i] / n, there)
                mean = s.probability[:, m, columns] / n.unsqueeze(-1)
                entropy = -(mean * torch.log(mean.clamp(min=TINY))).sum(-1)
                least = math.log(self.config.least_experts.get(name, 1.0))
                add(f"global_entropy_{name}", (least - entropy).clamp(min=0), there)
        return {name: _mean(parts) for name, parts in found.items()}

    def total(self, values: dict[str, Tensor]) -> Tensor:
        """Their weighted sum: a scalar."""
        c = self.config
        weights = {"balance": c.balance, "importance": c.importance, "load": c.load, "z": c.z}
        weights |= {f"local_entropy_{name}": w for name, w in c.local_entropy.items()}
        weights |= {f"global_entropy_{name}": w for name, w in c.global_entropy.items()}
        zero = next(iter(values.values())) * 0.0
        return torch.stack([w * values[name] for name, w in weights.items() if w and name in values] or [zero]).sum()

    def of_part(self, part: Sums, whole: Tensor) -> Tensor:
        """A scalar whose gradient to `part`, the sums of a part of the rows, is that of the weighted losses of all rows, whose
        sums are `whole`, flat; its value is theirs."""
        flat = part.flat()
        return self.total(self.values(self.unflattened(whole.to(flat.dtype) + (flat - flat.detach()))))

    def loads(self, s: Sums) -> Tensor:
        """(L, N): the share of its group's choices that each expert has, 1 for an even one."""
        choices = s.choices.sum(1)
        parts = [choices[:, c] * (c.stop - c.start) / choices[:, c].sum(1, keepdim=True).clamp(min=1) for c in self.columns]
        return torch.cat(parts, dim=1)


def variation(x: Tensor) -> Tensor:
    """The squared coefficient of variation over the last dimension."""
    return x.var(-1, unbiased=False) / (x.mean(-1) ** 2 + TINY)


def _mean(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    values = torch.cat([value.flatten() for value, _ in parts])
    counts = torch.cat([there.flatten() for _, there in parts])
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)
