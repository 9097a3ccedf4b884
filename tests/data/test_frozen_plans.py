"""Pack plans and corpora of two modalities are what they were when this file was made: a run that goes on sees the same
sequences, and a corpus that is prepared again has the same bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from momafuse.data.corpus import SPLITS, split_fingerprint
from momafuse.data.packing import PackPlan
from momafuse.data.writer import Group, Part, assemble, part_path
from momafuse.tokens.document import encode_document
from momafuse.tokens.vocabulary import Vocabulary
from tests.data.toy import Segments, make_split

# Tokens of a picture, pictures a sequence, longest text -> digests for seeds 0, 1, 2.
PLANS = {
    (1, 1, 20): ["8972a3fcdccfd812", "2d1075438dd3bc4c", "0700cf18e3f0dc26"],
    (2, 3, 6): ["e92c1efa6ff414d5", "37dc3a005f815f48", "5a91eb3f267f58a6"],
    (4, 2, 60): ["94103a6c3c5ac3c0", "fa0e84e21ebd658c", "ff9c3bb8d88104ce"],
    (8, 1, 30): ["8607de5092dab672", "96bfe81383087ce0", "b24528e9f97adde3"],
}

VOCABULARIES = {block: Vocabulary.build(20, image=(9, block)) for block, _, _ in PLANS}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def plan_of(block: int, pictures: int, longest: int, seed: int) -> PackPlan:
    rng = np.random.default_rng(seed)

    def document() -> Segments:
        text = [int(n) for n in rng.integers(1, longest, 4)]
        shape = rng.integers(4)
        if shape < 2:
            return ["image", text[0]] if shape else [text[0], "image"]
        return [text[0], "image", text[1], "image", text[2]] if shape == 2 else ["image", text[0], text[1]]

    sources: dict[str, list[Segments]] = {
        "a": [document() for _ in range(150)],
        "b": [document() for _ in range(40)],
        "c": [[int(n)] for n in rng.integers(1, 90, 120)],
        "d": [[int(n)] for n in rng.integers(1, 9, 300)],
    }
    split = make_split(sources, VOCABULARIES[block], seed)
    rate = max(s.tokens[0] / s.items[1] for s in split.sources if s.items[1])
    budget = int(np.ceil(rate * pictures)) + 3 * seed, pictures * block
    return PackPlan(split, budget, {"a": 1.0, "b": 0.4, "c": 2.0, "d": 1.0}, seed, 32)


@pytest.mark.parametrize("shape", PLANS)
def test_plans(shape):
    found = []
    for seed in range(3):
        plan = plan_of(*shape, seed)
        numbers = range(2 * plan.sequences_per_epoch + 5)
        found.append(digest([plan.pieces(n) for n in numbers] + [str(s) for s in plan.shares()]))
    assert found == PLANS[shape]


def test_corpus(tmp_path: Path):
    rng, v = np.random.default_rng(5), VOCABULARIES[4]
    text = v.modality("text")

    def document(number: int):
        def words():
            return "text", rng.integers(text.first, text.first + text.count, rng.integers(0, 9))

        def picture():
            return "image", rng.integers(0, 9, 4)

        shapes = ((picture, words), (words, picture), (words,), (words, picture, words, picture), (picture,))
        segments = [make() for make in shapes[rng.integers(len(shapes))]]
        return encode_document(f"d{number}", segments, v, (0,) if number % 5 == 0 else ())

    for source in range(2):
        for number in range(3):
            groups = tuple(Group.build([document(int(n)) for n in rng.integers(0, 999, 7)], v) for _ in range(3))
            Part(7, groups, ()).save(part_path(tmp_path, source, number))
    facts, _ = assemble(tmp_path, {"a": 0, "b": 1}, v)
    assert digest(facts) == "f9b8eaad5091e08f"
    assert [split_fingerprint(facts[name])[:16] for name in SPLITS] == ["0fc8045b41c24855", "df9f7ca0247ecf0e"]
    assert digest(v.to_dict()) == "8b491c5eedeca0e1"
