"""What a rank takes at once, against the sentence that it follows from, and the lines that are said of it."""

from __future__ import annotations

import pytest

from momafuse.config.compose import compose, load_config
from momafuse.config.schema import Config
from momafuse.config.shares import fitted, in_place, largest
from momafuse.errors import UserError


def config(*words: str, experiment: str = "moma_4t4i") -> Config:
    return compose([f"+experiment={experiment}", *words]).config


def taken(ranks: int, *words: str, experiment: str = "moma_4t4i") -> tuple[int, str]:
    asked = config(*words, experiment=experiment)
    found = fitted(asked, ranks)
    return found.trainer.micro_batch, in_place(asked, found, ranks)


def refused(ranks: int, *words: str, experiment: str = "moma_4t4i") -> str:
    with pytest.raises(UserError) as raised:
        fitted(config(*words, experiment=experiment), ranks)
    return str(raised.value)


def test_the_largest_is_that_of_trying_all():
    for share in range(1, 40):
        for most in range(1, 40):
            for whole in (1, 3, 4):
                tried = [m for m in range(1, most + 1) if share % m == 0 and m % whole == 0]
                assert largest(share, most, whole) == max(tried, default=0), (share, most, whole)


def test_the_default_size_starts_at_any_number_of_ranks_that_leaves_each_a_pool():
    assert taken(1) == (16, "")
    assert taken(2) == (8, "micro_batch 8 in place of 16: global_batch=16 over 2 ranks")
    assert taken(4) == (4, "micro_batch 4 in place of 16: global_batch=16 over 4 ranks")
    end = "with router.pool=4 need a multiple of"
    assert refused(3) == f"trainer.global_batch=16: 3 ranks {end} 12, e.g. 12 or 24; or start 2 ranks"
    assert refused(8) == f"trainer.global_batch=16: 8 ranks {end} 32, e.g. 32; or start 4 ranks"


def test_pools_stay_whole_where_something_chooses_in_them():
    words = ("trainer.global_batch=24", "trainer.micro_batch=6")
    assert taken(1, *words) == (4, "micro_batch 4 in place of 6: global_batch=24, in whole pools of 4")
    assert taken(1, *words, experiment="mod_moma_4t4i")[0] == 4
    assert taken(1, *words, experiment="dense") == (6, "")
    assert taken(4, *words, experiment="moe_1t1i") == (6, "")
    assert taken(2, "trainer.global_batch=20", "trainer.micro_batch=8", experiment="dense")[0] == 5
    depth = "model.depth={every: 2, start: 0, capacity: 0.25, per_modality: %s}"
    assert [taken(1, *words, depth % flag, experiment="dense")[0] for flag in ("true", "false")] == [6, 4]


def test_what_cannot_be_dealt_is_one_line_with_the_nearest_that_can():
    assert refused(3, experiment="dense").endswith(": 3 ranks need a multiple of 3, e.g. 15 or 18; or start 2 ranks")
    assert refused(32, experiment="dense").endswith("32 ranks need a multiple of 32, e.g. 32; or start 16 ranks")
    assert refused(2, "trainer.global_batch=4").endswith("need a multiple of 8, e.g. 8; or start 1 rank")
    with pytest.raises(UserError, match=r"^trainer\.global_batch=6: must be a multiple of router\.pool=4, e\.g\. 4 or 8$"):
        config("trainer.global_batch=6")
    with pytest.raises(UserError, match=r"^trainer\.micro_batch=2: must be at least router\.pool=4, which is routed as one$"):
        config("trainer.micro_batch=2")


def test_what_is_typed_stays_in_the_file(tmp_path):
    """So that the run may go on at other numbers of ranks."""
    job = compose(["+experiment=moma_4t4i"])
    (tmp_path / "config.yaml").write_text(job.yaml)
    assert load_config(tmp_path / "config.yaml").trainer.micro_batch == job.config.trainer.micro_batch == 16
