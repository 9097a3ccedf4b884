"""Losses by modality: per-token losses of many micro-batches added up and averaged once.

`loss_text` and `loss_image` go by the modality of the *target*; each is the mean cross-entropy in nats over its targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from momafuse.config.schema import ObjectiveConfig
from momafuse.data.batch import Batch
from momafuse.objectives.next_token import TokenLoss, next_token
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.world import World


def modality_table(vocabulary: Vocabulary, device: torch.device) -> Tensor:
    """(V,) int64 on the device: the modality of each id. Made once a run: it is a copy from the host."""
    return torch.from_numpy(vocabulary.modality_of_ids()).long().to(device)


class LossMeter:
    """Sums per modality on the device; one transfer when they are read."""

    def __init__(self, names: Sequence[str], table: Tensor) -> None:
        """`table` is the `modality_table` of the vocabulary, `names` its modalities."""
        self.names, self.table = names, table
        self.sums = torch.zeros(2, len(names), dtype=torch.float64, device=table.device)  # nll, targets

    def add(self, nll: Tensor, targets: Tensor) -> None:
        """nll (T,) in nats, targets (T,) with -1 for none."""
        modality = torch.where(targets >= 0, self.table[targets.clamp(min=0)], -1)
        mine = modality == torch.arange(len(self.names), device=modality.device)[:, None]
        # not index_add_, which adds in another order each time on a GPU
        self.sums += torch.stack([torch.where(mine, nll.double(), 0.0).sum(1), mine.double().sum(1)])

    def means(self, prefix: str, world: World) -> dict[str, float]:
        """`PREFIXloss` over the targets of all ranks and `PREFIXloss_MODALITY`; a modality without targets is left out."""
        return self.named(prefix, world.sum(self.sums).flatten().tolist())

    def named(self, prefix: str, sums: Sequence[float]) -> dict[str, float]:
        """`means` from the sums of all ranks, which are on the host already."""
        nll, count = sums[: len(self.names)], sums[len(self.names) :]
        means = {f"{prefix}loss": sum(nll) / max(1.0, sum(count))}
        return means | {f"{prefix}loss_{m}": s / n for m, s, n in zip(self.names, nll, count, strict=True) if n}


def count_targets(batches: Sequence[Batch]) -> int:
    """Valid targets of all micro-batches, counted on the host before they move to the device."""
    return sum(int((b.targets >= 0).sum()) for b in batches)


def objective(
    batch: Batch, meter: LossMeter, config: ObjectiveConfig, valid: int | Tensor
) -> Callable[[Tensor, Tensor], TokenLoss]:
    """The loss of one micro-batch as the model's objective: each target weighs `objective.weight` of its modality / `valid`, at
    least 1, which may be on the device."""
    targets = batch.targets.flatten()
    # filled on the device: a tensor of a list would be a copy that waits for all work before it
    per_modality = torch.cat([torch.full((1,), config.weight.get(m, 1.0), device=targets.device) for m in meter.names])
    weights = per_modality[meter.table[targets.clamp(min=0)]] / valid

    def loss(hidden: Tensor, head: Tensor) -> TokenLoss:
        result = next_token(hidden, head, targets, weights, config.z_loss)
        meter.add(result.nll, targets)
        return result

    return loss
