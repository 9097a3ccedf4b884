"""How often the right one comes first, against draws; and which way a table of likelihoods is read."""

from __future__ import annotations

import numpy as np
import pytest
import study_generation
from study_generation import first_of, log_mean, retrieval


def test_the_expectation_is_that_of_draws() -> None:
    draws = np.random.default_rng(0)
    score = draws.standard_normal((40, 40)) + np.eye(40)
    wins = []
    for _ in range(4000):
        i = int(draws.integers(40))
        others = draws.choice([j for j in range(40) if j != i], 4, replace=False)
        wins.append(score[i, i] > score[i, others].max())
    share, error = first_of(5, score)
    assert share == pytest.approx(np.mean(wins), abs=3 * (0.25 / 4000) ** 0.5)
    assert 0 < error < 0.5 / 40**0.5 * 1.1
    assert first_of(5, np.eye(40))[0] == 1
    assert first_of(5, np.zeros((40, 40)))[0] == 0, "what is no better than others is not found"


def test_log_mean_is_the_log_of_a_mean() -> None:
    p = np.array([[0.1, 0.5], [0.3, 0.25]])
    assert np.exp(log_mean(np.log(p))) == pytest.approx([0.2, 0.375])
    assert np.isfinite(log_mean(np.full((3, 2), -2000.0))).all()


def test_each_direction_is_judged_by_both_likelihoods() -> None:
    """A model that knows the text of an item and no item of a text: its forward texts and reverse items are right."""
    n = 30
    draws = np.random.default_rng(1)

    class Lm:
        def scores(self, asked: list[tuple[list[int], list[int]]], batch: int) -> list[tuple[int, tuple[float, bool]]]:
            def score(context: list[int], wanted: list[int]) -> float:
                knows = wanted[0] < n and context[-1] == wanted[0] + n  # a text after its item
                return 5.0 * knows + float(draws.standard_normal()) * (wanted[0] >= n)

            return [(k, (score(*pair), False)) for k, pair in enumerate(asked)]

    class Model:
        lm = Lm()
        vocabulary = type("V", (), {"specials": type("S", (), {"bos": 99})})

    found = retrieval(Model(), [([i], [i + n]) for i in range(n)])  # type: ignore[arg-type]
    assert found["text_of_item"]["forward"][0] == found["item_of_text"]["reverse"][0] == 1
    assert found["item_of_text"]["forward"][0] < 0.3
    assert found["text_of_item"]["reverse"][0] < 0.3
    assert found["item_of_text"]["both"][0] == found["text_of_item"]["both"][0] == 1, "by what it knows in one order"
    assert study_generation.AMONG == 20


def test_what_is_likely_anyway_does_not_count() -> None:
    """One item and one text that win every comparison, unless their likelihood without the other is taken off."""
    n = 30

    class Lm:
        def scores(self, asked: list[tuple[list[int], list[int]]], batch: int) -> list[tuple[int, tuple[float, bool]]]:
            def score(context: list[int], wanted: list[int]) -> float:
                partner = wanted[0] + n if wanted[0] < n else wanted[0] - n
                return 9.0 * (wanted[0] % n == 3) + 1.0 * (context[-1] == partner)

            return [(k, (score(*pair), False)) for k, pair in enumerate(asked)]

    class Model:
        lm = Lm()
        vocabulary = type("V", (), {"specials": type("S", (), {"bos": 99})})

    found = retrieval(Model(), [([i], [i + n]) for i in range(n)])  # type: ignore[arg-type]
    for way in ("item_of_text", "text_of_item"):
        assert found[way]["forward"][0] < 0.5, "the likely one wins where it is among the 20"
        assert found[way]["ratio"][0] == found[way]["both"][0] == 1
