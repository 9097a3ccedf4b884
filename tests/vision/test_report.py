"""Which pictures a finished tokenizer is judged on."""

from __future__ import annotations

import pytest
import torch

from momafuse.vision import report
from momafuse.vision.report import judged_rows


@pytest.mark.parametrize(("trained", "expected"), [(3, 3), (50, 8), (0, 0)])
def test_all_held_out_ones_and_some_of_the_others(trained: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "TRAINED", trained)
    heldout = torch.tensor([False, True, False, False, True, False, False, False, False, False])
    rows = judged_rows(heldout).tolist()
    assert rows == sorted(set(rows))
    assert {1, 4} <= set(rows)
    assert len(rows) == 2 + expected
    if expected == 3:
        assert min(r for r in rows if r not in (1, 4)) == 0
        assert max(rows) == 9, "spread over all"


def test_nothing_but_held_out_ones() -> None:
    assert judged_rows(torch.ones(4, dtype=torch.bool)).tolist() == [0, 1, 2, 3]
