"""Which ids may follow: against a regular expression of documents, on vocabularies and choices that are drawn."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momafuse.errors import UserError
from momafuse.generation.grammar import MIXED, Grammar
from momafuse.tokens.vocabulary import Vocabulary

V = Vocabulary.build(20, image=(5, 3), speech=(4, 0))
IMAGE, SPEECH, TEXT = V.modality("image"), V.modality("speech"), V.modality("text")


def spelt(ids: list[int], v: Vocabulary) -> str:
    """A letter for each id: B E bos and eos, t text, I i J a picture and its frame, S s Z speech; ? the rest."""
    image, speech, text = v.modality("image"), v.modality("speech"), v.modality("text")
    named = {v.specials.bos: "B", v.specials.eos: "E", image.begin: "I", image.end: "J", speech.begin: "S", speech.end: "Z"}
    ranges = ((image, "i"), (speech, "s"), (text, "t"))
    return "".join(named.get(n) or next((c for m, c in ranges if m.first <= n <= m.last), "?") for n in ids)


@given(st.data(), st.integers(1, 40), st.sampled_from(["text", "image", "speech", MIXED]))
def test_what_is_made_is_a_document(data: st.DataObject, room: int, wanted: str) -> None:
    grammar = Grammar(V, wanted)
    ids = [V.specials.bos]
    state = grammar.start(ids)
    if (wanted == "image" and room < 5) or (wanted == "speech" and room < 3):
        with pytest.raises(UserError, match=rf"make={wanted}: takes \d tokens, and behind this prompt are {room}"):
            grammar.allowed(state, room)
        return
    left = room
    while left and not state.ended:
        allowed = grammar.allowed(state, left).nonzero()[:, 0].tolist()
        assert allowed
        ids.append(data.draw(st.sampled_from(allowed)))
        state = grammar.next(state, ids[-1])
        left -= 1
    item = {"text": "t*", "image": "Ii{3}J", "speech": "Ss+Z", MIXED: "(?:t|Ii{3}J|Ss+Z)*"}[wanted]
    end = "" if wanted in ("image", "speech") else "E"
    if state.ended:
        assert re.fullmatch(f"B{item}{end}", spelt(ids, V))
    else:
        assert re.fullmatch(f"B{item}", spelt(ids, V))
        assert wanted in ("text", MIXED)


def test_every_id_that_may_not_follow_is_refused() -> None:
    grammar = Grammar(V, MIXED)
    states = [grammar.start(ids) for ids in ([1], [1, IMAGE.begin], [1, IMAGE.begin, *[IMAGE.first] * 3], [1, SPEECH.begin])]
    for state in states:
        allowed = grammar.allowed(state, 20)
        for i in range(V.size):
            if allowed[i]:
                grammar.next(state, i)
            else:
                with pytest.raises(ValueError, match="may not follow"):
                    grammar.next(state, i)


def test_a_prompt_may_end_inside_of_an_item() -> None:
    grammar = Grammar(V, "image")
    state = grammar.start([V.specials.bos, TEXT.first, IMAGE.begin, IMAGE.first])
    assert state.codes == 1
    assert spelt(grammar.allowed(state, 4).nonzero()[:, 0].tolist(), V) == "i" * IMAGE.count


def test_nothing_follows_the_end() -> None:
    grammar = Grammar(V, "text")
    state = grammar.next(grammar.start([V.specials.bos]), V.specials.eos)
    assert grammar.allowed(state, 3).nonzero()[:, 0].tolist() == [V.specials.pad]


def test_what_the_run_does_not_have() -> None:
    with pytest.raises(UserError, match="make=video: this run makes text, image, speech, mixed"):
        Grammar(V, "video")
