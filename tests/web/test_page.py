"""The page's HTML: one word for each row of text, in the colour of its expert; items beside their cells; what is said."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image

from momafuse.generation.experts import Taken
from momafuse.generation.sampling import Sampling
from momafuse.reports.drawing import colour, in_lines, over_picture
from momafuse.routing.names import NONE, PASSED
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.web.answer import Answer, answer, prompt_of, runs_of
from momafuse.web.page import page
from tests.web.conftest import Untrained
from tests.web.test_answer import drawing

WORD = re.compile(r'<span class="([^"]*)" style="([^"]*)" title="([^"]*)">([^<]*)</span>')
PICTURE = re.compile(r'<img src="data:image/png;base64,([^"]+)"')


def pictures(html: str) -> list[np.ndarray]:
    return [np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data in PICTURE.findall(html)]


@pytest.mark.parametrize("experiment", ["moma_4t4i", "moma_1t7i", "moe_8x", "mod_dense", "mod_moma_4t4i"])
def test_every_row_lies_on_the_colour_of_its_expert(untrained: Untrained, experiment: str) -> None:
    model = untrained(experiment)
    typed = "a <b>bird</b> & {{1}} ${2} \u20ac"
    found = answer(model, prompt_of(model, typed, {"image": drawing()}), "image", Sampling())
    for layer, taken in enumerate(found.layers):
        html = page(found, layer, model.vocabulary, model.lm.tokenizer)
        if not taken.routed:
            assert "has no router" in html
            continue
        rows = [
            row for r in runs_of(found.ids, found.given, model.vocabulary) if not r.modality for row in range(r.start, r.stop)
        ]
        words = WORD.findall(html)
        assert len(words) == len(rows)
        for row, (kind, style, title, _) in zip(rows, words, strict=True):
            expert = int(taken.expert[row])
            assert ("passed" in kind) == (expert == PASSED)
            if expert == PASSED:
                assert (style, title) == ("", "passed by")
                continue
            r, g, b = colour(expert, len(taken.names))
            assert style == f"background: rgba({r}, {g}, {b}, 0.5)"
            assert title.startswith("no expert" if expert == NONE else f"{taken.names[expert]}, gate {taken.gate[row]:.2f}")
        assert "".join(unescape(text).replace("·", "") for kind, _, _, text in words if "special" not in kind) == typed
        shown = pictures(html)
        items = [r for r in runs_of(found.ids, found.given, model.vocabulary) if r.modality]
        assert len(shown) == 2 * len(items) == 4
        for n, r in enumerate(items):
            expert = taken.expert[r.start : r.stop]
            assert (shown[2 * n + 1] == over_picture(shown[2 * n], expert, len(taken.names))).all()


def test_the_legend_counts_rows(untrained: Untrained) -> None:
    model = untrained("mod_moma_4t4i")
    found = answer(model, prompt_of(model, "a bird", {}), "text", Sampling(), 20)
    for layer, taken in enumerate(found.layers):
        legend = dict(re.findall(r"</i>([^<]+) · (\d+)</span>", page(found, layer, model.vocabulary, model.lm.tokenizer)))
        assert sum(map(int, legend.values())) == len(found.ids)
        assert {*taken.names} <= {*legend}
        assert int(legend.get("no expert", 0)) == (taken.expert == NONE).sum()
        assert int(legend.get("passed by", 0)) == (taken.expert == PASSED).sum()


@pytest.mark.parametrize("experiment", ["dense", "moe_1t1i", "mot"])
def test_a_model_without_routers_says_so(untrained: Untrained, experiment: str) -> None:
    model = untrained(experiment)
    found = answer(model, prompt_of(model, "a bird", {"image": drawing()}), "text", Sampling(), 5)
    html = page(found, 0, model.vocabulary, model.lm.tokenizer)
    assert "This model has no routers" in html
    assert "background: rgba" not in html
    assert len(pictures(html)) == 1


def test_a_cut_item_is_its_cells_alone(untrained: Untrained) -> None:
    model = untrained("moma_4t4i")
    found = answer(model, prompt_of(model, "", {"image": drawing()}), "text", Sampling(), 1)
    cut = replace(found, ids=found.ids[:50], given=50, files={}, layers=[
        replace(one, expert=one.expert[:50], gate=one.gate[:50], count=one.count[:50]) for one in found.layers])  # fmt: skip
    html = page(cut, 0, model.vocabulary, model.lm.tokenizer)
    assert "image, 48 of 64 codes" in html
    (shown,) = pictures(html)
    assert (shown == in_lines(cut.layers[0].expert[2:], len(cut.layers[0].names))).all()


def test_a_sound_is_heard_and_its_codes_lie_in_lines(untrained: Untrained) -> None:
    v = Vocabulary.build(20, speech=(50, 0))
    m = v.modality("speech")
    ids = [v.specials.bos, m.begin, *range(m.first, m.first + 50), m.end]
    expert = np.array([0, 1, *(2 + n % 2 for n in range(50)), NONE])
    names = ("text 1", "text 2", "speech 1", "speech 2")
    taken = Taken(names, (0, 1, 2, 3), True, expert, np.ones(53), np.ones(53, np.int64))
    html = page(Answer(ids, 53, [taken], {2: ("wav", b"RIFF")}), 0, v, untrained("dense").lm.tokenizer)
    assert '<audio controls src="data:audio/wav;base64,UklGRg==">' in html
    assert "speech, 50 codes" in html
    (cells,) = pictures(html)
    assert (cells == in_lines(expert[2:52], 4)).all()
