"""What the routers of a model did with many rows, as sums that add up over batches and ranks, and what is read from them.

Of a layer, over the rows r of modality m that a routed group of E experts serves (of a mixture of depths: the kept ones):

    load         rows that each expert computed, by modality
    times        rows that 0, 1, 2 or more experts of the group computed; the success rate (LIMoE, 2206.02770) is the share of
                 the last two
    dropped      choices (a row and an expert) that the router made and a bound or a capacity undid
    entropy      sum over rows of H(p(r)) in nats, p the softmax of the logits over the group's experts

    unused       1 - sum_e min(load_e, C) / (E C),   C = rows * experts of a row / E: places of the even load that stay empty
    divergence   Jensen-Shannon: (H(mean of q_m) - mean of H(q_m)) / ln M; q_m the experts of modality m, all of one weight
    nmi          I(m; e) / H(m), normalised mutual information: how much of a row's modality its expert tells (0: nothing)
    explained    sum_m n_m |mean_m - mean|^2 / sum_r |x_r - mean|^2 of a layer's outputs x: the share of their variance that is
                 between modalities
    similarity   mean over pairs of experts of a group of the cosine of their weights, flattened

Shape legend: L layers, T rows, D width, E experts of all groups, G routed groups, M modalities. Knows no ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from momafuse.routing.auxiliary import taken_by
from momafuse.routing.names import SHARED
from momafuse.routing.plan import Group, Plan, served
from momafuse.routing.rows import Rows


@dataclass(frozen=True)
class RouterSums:
    """Of L layers, float64."""

    load: Tensor  # (L, E, M)
    times: Tensor  # (L, G, M, 3)
    dropped: Tensor  # (L, G, M)
    entropy: Tensor  # (L, G, M), 0 where nothing was scored

    def __add__(self, other: RouterSums) -> RouterSums:
        return RouterSums(*[a + b for a, b in zip(self.parts(), other.parts(), strict=True)])

    def parts(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)]


@dataclass(frozen=True)
class StateSums:
    """Of the rows that leave each of L layers, float64."""

    rows: Tensor  # (M,)
    total: Tensor  # (L, M, D)
    squares: Tensor  # (L,) of the length of every row

    def parts(self) -> list[Tensor]:
        return [self.rows, self.total, self.squares]


def summed(parts: Sequence[Tensor], total: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Each of the parts summed by `total` (over ranks), in one piece."""
    flat = total(torch.cat([p.flatten() for p in parts]))
    return [s.view_as(p) for s, p in zip(torch.split(flat, [p.numel() for p in parts]), parts, strict=True)]


def count_routers(plans: Sequence[tuple[Plan, Rows]], groups: Sequence[Group], modalities: int, *, scored: bool) -> RouterSums:
    """Count the plans of L layers of these groups and their rows. `scored`: their logits mean something. No device waits."""
    layers = [_of_layer(plan, rows, groups, modalities, scored) for plan, rows in plans]
    return RouterSums(*[torch.stack(parts) for parts in zip(*layers, strict=True)])


def _of_layer(plan: Plan, rows: Rows, groups: Sequence[Group], modalities: int, scored: bool) -> list[Tensor]:
    one_hot = modality_of(rows, modalities)
    taken, serves = taken_by(plan, len(one_hot)), served(groups, rows).t()
    times, dropped, entropy, first, column = [], [], [], 0, 0
    for g in groups:
        if g.experts > 1:
            mine, of_group = serves[:, first], taken[:, first : first + g.experts]
            n = of_group.sum(1)
            kinds = torch.stack([(n == 0) & mine, (n == 1) & mine, (n > 1) & mine], dim=1).double()
            times.append(one_hot.t() @ kinds)
            columns, lost, h = slice(column, column + g.experts), torch.zeros_like(n), torch.zeros_like(n).double()
            if plan.scores is not None and plan.scores.chosen is not None:
                lost = (plan.scores.chosen[:, columns] & ~of_group & mine.unsqueeze(1)).sum(1)
            if plan.scores is not None and scored:
                h = torch.where(mine, entropies(plan.scores.logits[:, columns].detach()).double(), 0.0)
            dropped.append(one_hot.t() @ lost.double())
            entropy.append(one_hot.t() @ h)
            column += g.experts
        first += g.experts
    return [taken.double().t() @ one_hot, torch.stack(times), torch.stack(dropped), torch.stack(entropy)]


def modality_of(rows: Rows, modalities: int) -> Tensor:
    """(T, M) float64 of 0 and 1"""
    return (rows.modality.flatten().unsqueeze(1) == torch.arange(modalities, device=rows.modality.device)).double()


def entropies(z: Tensor) -> Tensor:
    """Logits (..., n) -> (...) the entropy of their softmax in nats."""
    log_p = torch.log_softmax(z, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def unused_capacity(load: Tensor, rows: float, per_row: float) -> float:
    """load (E,) of a group whose rows have `per_row` places each."""
    places = rows * per_row
    return 1 - float(load.clamp(max=places / len(load)).sum()) / places if places else 0.0


def apart(load: Tensor) -> tuple[float, float] | None:
    """load (E, M) -> divergence and nmi, both 0..1; None with rows of fewer than two modalities."""
    load = load[:, load.sum(0) > 0].double()
    modalities = load.shape[1]
    if modalities < 2:
        return None
    joint, of_modality = load / load.sum(), load / load.sum(0)
    divergence = (_entropy(of_modality.mean(1)) - _entropy(of_modality.t()).mean()) / math.log(modalities)
    h = _entropy(joint.sum(0))
    shared = (h + _entropy(joint.sum(1)) - _entropy(joint.flatten())) / h
    return float(divergence.clamp(0, 1)), float(shared.clamp(0, 1))


def _entropy(p: Tensor) -> Tensor:
    """p (..., n) -> (...) in nats"""
    h: Tensor = torch.special.entr(p).sum(-1)
    return h


def explained(sums: StateSums) -> list[float]:
    """Of each layer; 0 where all rows are alike."""
    there = sums.rows > 0
    n, total = sums.rows[there], sums.total[:, there]  # (M,), (L, M, D)
    of_mean = (total.sum(1) ** 2).sum(-1) / n.sum()
    between = ((total**2).sum(-1) / n).sum(-1) - of_mean
    around = sums.squares - of_mean
    shares: list[float] = (between / around.clamp(min=1e-30)).clamp(0, 1).tolist()
    return shares


def similarity(weights: Sequence[Tensor]) -> Tensor:
    """Stacks (E, ...) of the same experts -> () the mean cosine of two of them, all of an expert's weights end to end."""
    gram = sum(((w := stack.flatten(1).float()) @ w.t()).double() for stack in weights)
    assert isinstance(gram, Tensor)
    length, e = gram.diagonal().sqrt().clamp(min=1e-30), len(gram)
    cosine = gram / (length.unsqueeze(0) * length.unsqueeze(1))
    return (cosine.sum() - cosine.diagonal().sum()) / (e * (e - 1))


def counting(groups: Sequence[Group]) -> list[int]:
    """Numbers of the experts among all that tell rows apart: shared ones take every row."""
    each = [g for g in groups for _ in range(g.experts)]
    return [e for e, g in enumerate(each) if g.name != SHARED]
