"""Parameters: MoMa's Table 1, and active ones counted by a loop over tokens."""

from __future__ import annotations

import pytest
import torch

from momafuse.config.compose import compose
from momafuse.config.schema import Config
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.reports.parameters import count_parameters
from momafuse.reports.work import model_work
from tests.batches import make_batch
from tests.members import mean_loss

NAMES = ("text", "image")
TABLE_1 = [  # experiment, size, parameters (arXiv 2407.21770, Table 1, counted from its widths)
    ("dense", "90m", 92.3e6),
    ("dense", "435m", 436e6),
    ("dense", "1_4b", 1.476e9),
    ("moma_4t4i", "90m", 209.7e6),
    ("moe_8x", "435m", 1.845e9),
    ("moma_4t4i", "1_4b", 7.113e9),
    ("mod_dense", "90m_mod", 111.1e6),
    ("mod_dense", "435m_mod", 637e6),
    ("mod_dense", "1_4b_mod", 2.340e9),
    ("mod_moma_4t4i", "90m_mod", 316.6e6),
    ("mod_moma_4t4i", "435m_mod", 2.986e9),
    ("mod_moma_4t4i", "1_4b_mod", 11.85e9),
]


def without_weights(config: Config, ids: int) -> Transformer:
    with torch.device("meta"):
        return Transformer(config.model, config.router, vocabulary_size=ids, modality_names=NAMES)


def active_and_total(config: Config, ids: int, budget: tuple[int, ...]) -> tuple[float, int]:
    model = without_weights(config, ids)
    parts = count_parameters(model, model_work(config.model, config.router, NAMES, budget))
    total = sum(p.total for p in parts.values())
    assert total == sum(p.numel() for p in model.parameters())
    return sum(p.active for p in parts.values()), total


@pytest.mark.parametrize(("experiment", "size", "parameters"), TABLE_1)
def test_table_1(experiment: str, size: str, parameters: float) -> None:
    config = compose([f"+experiment={experiment}", f"size={size}", "model.ffn_multiple_of=1"]).config
    active, total = active_and_total(config, 65_536, (2048, 2048))
    assert total == pytest.approx(parameters, rel=0.005)
    assert (active == total) == (experiment == "dense")


@pytest.mark.parametrize(
    "words",
    [
        ["+experiment=moma_3t5i"],
        ["+experiment=mot_text_moe4", "model.attention.qk_norm=layer", "model.width_share={image: 0.5}"],
        ["+experiment=mot", "model.attention.qk_norm_per_head=true", "model.attention.n_kv_heads=1"],
        ["+experiment=mod_moma_4t4i", "model.experts={text: 4, image: 4, shared: 2, every: 2, start: 1}"],
        ["+experiment=mot", "model.depth={every: 1, start: 0, capacity: 0.3, per_modality: true}"],
    ],
)
def test_active_token_by_token(words: list[str]) -> None:
    """Each token of a real batch: what it is multiplied by, from the plans of the routers."""
    budget, sequences, ids = (40, 24), 8, 64
    config = compose([*words, "size=micro", "model.n_layers=3"]).config
    model = Transformer(config.model, config.router, vocabulary_size=ids, modality_names=NAMES)
    initialise(model, 0)
    batch = make_batch(sequences, budget, ids)
    with torch.no_grad():
        _, decisions = mean_loss(model, batch)
    modality = batch.modality.flatten().tolist()
    always = model.embedding.weight.numel() + model.head.weight.numel() + model.norm.weight.numel()
    multiplied = always * len(modality)
    for block, decision in zip(model.blocks, decisions, strict=True):
        of = {path: p.numel() for path, p in block.named_parameters()}
        kept = list(range(len(modality))) if decision.kept is None else decision.kept.rows.flatten().tolist()
        multiplied += len(modality) * of.get("depth_router.weight", 0)
        for row in kept:
            for path, n in of.items():
                last, shared = path.split(".")[-1], not path.startswith(("experts", "depth_router"))
                multiplied += n if shared and last in (NAMES[modality[row]], "weight", "bias") else 0
                multiplied += n if path == f"experts.router.weight.{NAMES[modality[row]]}" else 0
        groups = block.experts.groups
        sizes = [(name, e) for name, g in groups.items() for e in range(g.gate.shape[0])]
        for name, e in sizes:
            one = 3 * groups[name].gate[e].numel()
            number = sizes.index((name, e))
            plan = decision.experts
            multiplied += one * (len(kept) if plan is None else int(plan.offsets[number + 1] - plan.offsets[number]))
    active, _ = active_and_total(config, ids, budget)
    assert active == pytest.approx(multiplied / len(modality), rel=1e-12)
