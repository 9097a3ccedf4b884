"""The layout of documents against a plain loop, and the vocabulary's ranges."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from momafuse.tokens.document import encode_document, turned
from momafuse.tokens.modality import Modality
from momafuse.tokens.vocabulary import Specials, Vocabulary

VOCABULARY = Vocabulary.build(30, image=(50, 4))  # specials 0..7, codes 8..57, text 58..87
Segment = tuple[Literal["text", "image"], list[int]]
TEXT = st.tuples(st.just("text"), st.lists(st.integers(58, 87), max_size=5))
IMAGE = st.tuples(st.just("image"), st.lists(st.integers(0, 49), min_size=4, max_size=4))


def plain_layout(key: str, segments: list[Segment]) -> tuple[list[int], list[tuple[int, int]], str]:
    """ids, picture spans and kind, one token at a time."""
    n_images = sum(kind == "image" for kind, _ in segments)
    pair = len(segments) == 2 and n_images == 1
    if pair:
        image_now_first = segments[0][0] == "image"
        if image_now_first != turned(key):
            segments = [segments[1], segments[0]]
    ids, spans = [1], []
    for kind, values in segments:
        if kind == "image":
            ids.append(3)
            spans.append((len(ids), len(values)))
            for code in values:
                ids.append(8 + code)
            ids.append(4)
        else:
            for piece in values:
                ids.append(piece)
    ids.append(2)
    return ids, spans, "pair" if pair else "interleaved" if n_images else "text"


@given(st.text(), st.lists(st.one_of(TEXT, IMAGE), max_size=6))
def test_layout_agrees_with_a_plain_loop(key: str, segments: list[Any]) -> None:
    document = encode_document(key, [(kind, np.array(v, dtype=np.int64)) for kind, v in segments], VOCABULARY)
    ids, spans, kind = plain_layout(key, segments)
    assert document.ids.tolist() == ids
    assert document.items[:, :2].tolist() == [list(span) for span in spans]
    assert document.kind == kind
    assert document.ids.dtype == document.items.dtype == np.int64


@given(st.text(), st.lists(st.tuples(st.one_of(TEXT, IMAGE), st.booleans()), max_size=6))
def test_given_spans_agree_with_a_mark_on_every_token(key: str, drawn: list[Any]) -> None:
    segments = [(kind, np.array(values, dtype=np.int64)) for (kind, values), _ in drawn]
    places = tuple(n for n, (_, mark) in enumerate(drawn) if mark)
    document = encode_document(key, segments, VOCABULARY, places)
    if not places:
        assert document.given.shape == (0, 2)
        return
    ids, marks = [1], [False]  # nothing is turned
    for (kind, values), mark in drawn:
        piece = [3, *(8 + code for code in values), 4] if kind == "image" else values
        ids += piece
        marks += [mark] * len(piece)
    assert document.ids.tolist() == [*ids, 2]
    marks.append(drawn[-1][1])  # eos answers an answer
    expected = np.flatnonzero(np.diff(marks, prepend=False, append=False)).reshape(-1, 2)
    assert document.given.tolist() == expected.tolist()
    assert document.given.dtype == np.int64


@pytest.mark.parametrize("given", [(0,), (1,), (0, 1)])
def test_a_pair_with_a_prompt_keeps_its_order(given: tuple[int, ...]) -> None:
    picture, text = ("image", np.arange(4)), ("text", np.array([60, 61]))
    for n in range(20):
        for segments in ([picture, text], [text, picture]):
            document = encode_document(str(n), segments, VOCABULARY, given)
            assert document.kind == "pair"
            assert document.items[:, :2].tolist() == [[2, 4] if segments[0] is picture else [4, 4]]


def test_about_half_of_the_pairs_put_the_turned() -> None:
    share = sum(turned(f"key {n}") for n in range(4000)) / 4000
    assert abs(share - 0.5) < 0.03


@pytest.mark.parametrize("codes", [[0, 1, 2], [0, 1, 2, 50], [-1, 0, 1, 2]])
def test_codes_that_are_no_picture_are_refused(codes: list[int]) -> None:
    with pytest.raises(ValueError, match="4 codes below 50"):
        encode_document("k", [("image", np.array(codes))], VOCABULARY)


def test_the_built_vocabulary_fills_its_ids() -> None:
    starter = Vocabulary.build(4088, image=(8192, 64))
    assert starter.size == 12_288
    modality = starter.modality_of_ids()
    image = starter.modality("image")
    for i in range(starter.size):
        assert modality[i] == (1 if image.first <= i < image.first + 8192 else 0)
    assert Vocabulary.from_dict(starter.to_dict()) == starter


def test_the_chameleon_layout_is_one_instance() -> None:
    chameleon = Vocabulary.chameleon()
    assert (chameleon.modality("image").first, chameleon.modality("image").last) == (4, 8195)
    assert chameleon.modality_of_ids()[[8196, 8197, 8195, 4, 3]].tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ((Modality("image", 8, 10), Modality("text", 18, 2)), "first modality must be text"),
        ((Modality("text", 8, 13),), "size=20"),
        ((Modality("text", 8, 6), Modality("image", 13, 5, 0, 3, 4)), "overlap"),
        ((Modality("text", 4, 6), Modality("image", 12, 3, 3, 3, 4)), "end_image=4"),
    ],
)
def test_a_contradictory_vocabulary_is_refused(modalities: tuple[Modality, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(20, Specials(0, 1, 2), modalities)
