"""Decoding with kept keys and values against the forward pass of the whole sequence, which keeps nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momafuse.generation.decoder import Decoder
from momafuse.generation.passes import pass_of
from momafuse.models.transformer import Transformer
from momafuse.tokens.vocabulary import Vocabulary
from tests.members import member
from tests.models.loops import VOCABULARY, shaken
from tests.models.zoo import CAUSAL, ZOO, build

V = Vocabulary.build(VOCABULARY - 8 - 36, image=(36, 4))
STEPS = 11


def whole(model: Transformer, ids: list[int]) -> Tensor:
    """Logits (S, V) behind every id of one sequence alone."""
    routing = "causal" if model.routes else "training"
    with torch.no_grad():
        return model(pass_of([ids], V, torch.device("cpu")), lambda hidden, head: hidden @ head.t(), routing=routing)[0]


def rows(lengths: tuple[int, ...]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(VOCABULARY, (n + STEPS,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("lengths", [(1,), (8,), (1, 2, 9), (7, 8, 16, 17, 3)], ids=str)
@pytest.mark.parametrize("placement", ["swin", "pre"])
@pytest.mark.parametrize("name", ZOO)
def test_a_step_equals_the_whole_forward(name: str, placement: str, lengths: tuple[int, ...]) -> None:
    model, _ = build(name, placement, auxiliary=name not in CAUSAL)
    sequences = rows(lengths)
    expected = [whole(model, ids) for ids in sequences]
    decoder = Decoder(model, V, max(lengths) + STEPS)
    logits = decoder.start([ids[:n] for ids, n in zip(sequences, lengths, strict=True)])
    for step in range(STEPS):
        for row, full, n in zip(logits, expected, lengths, strict=True):
            assert (row - full[n + step - 1]).abs().max() < 1e-10
        logits = decoder.step([ids[n + step] for ids, n in zip(sequences, lengths, strict=True)])


@pytest.mark.parametrize("name", ["dense", "moma_4t4i", "mod_moma_4t4i", "mod_moma_4t4i of_pool", "mot"])
def test_sequences_may_end_or_be_doubled(name: str) -> None:
    model, _ = build(name, auxiliary=name not in CAUSAL)
    sequences = rows((3, 8, 5))
    decoder = Decoder(model, V, 8 + STEPS)
    decoder.start([ids[:n] for ids, n in zip(sequences, (3, 8, 5), strict=True)])
    decoder.select([2, 0, 2])
    others = [sequences[2], sequences[0], [*sequences[2][:5], *sequences[1][5:]]]
    starts = (5, 3, 5)
    for step in range(4):
        logits = decoder.step([ids[n + step] for ids, n in zip(others, starts, strict=True)])
        for row, ids, n in zip(logits, others, starts, strict=True):
            assert (row - whole(model, ids)[n + step]).abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("name", ["dense", "mot"])
def test_heads_with_norms_of_their_own(name: str, kind: str) -> None:
    heads = ["model.n_heads=4", "model.attention.n_kv_heads=2", "model.dim=16", "model.attention.qk_norm_per_head=true"]
    words = [*heads, f"model.attention.qk_norm={kind}", "model.ffn=12"]
    model = shaken(member(name, *words, vocabulary=VOCABULARY, dtype=torch.float64))
    (ids,) = rows((3,))
    full = whole(model, ids)
    decoder = Decoder(model, V, 3 + STEPS)
    logits = decoder.start([ids[:3]])
    for step in range(STEPS):
        assert (logits[0] - full[3 + step - 1]).abs().max() < 1e-10
        logits = decoder.step([ids[3 + step]])


def test_more_than_there_is_room_for() -> None:
    model, _ = build("dense")
    decoder = Decoder(model, V, 4)
    decoder.start([[1, 9, 10]])
    decoder.step([11])
    with pytest.raises(ValueError, match="a pass of 1 rows after 4, of at most 4"):
        decoder.step([12])
