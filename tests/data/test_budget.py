from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momafuse.config.schema import DataConfig
from momafuse.data.budget import check_text, modality_budget
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary

VOCABULARY = Vocabulary.build(4088, image=(8192, 64))
KEY = "data.image_share"
EVEN = {"text": 4, "image": 4}


def data(length: int, share: float | str) -> DataConfig:
    return DataConfig("toy", None, {}, [], length, share, {}, 64, 0.01, "keep")  # type: ignore[arg-type]


def test_the_share_of_the_default() -> None:
    assert modality_budget(data(256, 0.5), VOCABULARY, EVEN) == (128, 128)


def test_a_share_without_whole_pictures_names_its_neighbours() -> None:
    with pytest.raises(UserError, match=r"^data\.image_share=0\.501: .*the nearest valid shares are 0\.5 and 0\.75$"):
        modality_budget(data(256, 0.501), VOCABULARY, EVEN)


@pytest.mark.parametrize("share", [-0.25, 1.0, 1.5, 0.1, 0.999])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(UserError, match="the nearest valid shares are"):
        modality_budget(data(256, share), VOCABULARY, EVEN)


def test_a_sequence_too_short_for_a_picture() -> None:
    assert modality_budget(data(64, 0.0), VOCABULARY, EVEN) == (64, 0)
    with pytest.raises(UserError, match=r"beside them\); raise data\.sequence_length to at least 67$"):
        modality_budget(data(64, 0.5), VOCABULARY, EVEN)
    with pytest.raises(UserError, match=r"the only valid share is 0\.5$"):
        modality_budget(data(128, 0.25), VOCABULARY, EVEN)
    assert modality_budget(data(67, 64 / 67), VOCABULARY, EVEN) == (3, 64)


def test_the_share_of_the_experts() -> None:
    assert modality_budget(data(256, "experts"), VOCABULARY, {"text": 4, "image": 4}) == (128, 128)
    assert modality_budget(data(256, "experts"), VOCABULARY, {"text": 6, "image": 2, "shared": 1}) == (192, 64)
    with pytest.raises(UserError, match=r"experts \(text: 5, image: 3\): 96 of .* nearest valid shares are 0\.25 and 0\.5$"):
        modality_budget(data(256, "experts"), VOCABULARY, {"text": 5, "image": 3})


@pytest.mark.parametrize("experts", [{"all": 8}, {"all": 8, "text": 1}, {"shared": 1}, {}])
def test_experts_that_are_not_split_have_no_share(experts: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"^data\.image_share=experts: .*give a number"):
        modality_budget(data(256, "experts"), VOCABULARY, experts)


@given(length=st.integers(1, 5000), share=st.floats(-0.5, 1.5), block=st.sampled_from([1, 16, 64, 1024]))
def test_exact_or_an_error_whose_shares_are_valid(length: int, share: float, block: int) -> None:
    vocabulary = Vocabulary.build(4088, image=(8192, block))
    valid = [k * block / length for k in range(length + 1) if k * (block + 2) < length]  # the rule, by trial
    try:
        text, image = modality_budget(data(length, share), vocabulary, EVEN)
    except UserError as error:
        message = str(error)
    else:
        assert text + image == length
        assert image % block == 0
        assert image / length in valid
        assert abs(share - image / length) <= 1e-5
        return
    assert min(abs(share - v) for v in valid) > 1e-5
    valid = valid[1:]  # a share of 0 cannot be configured (config/validate.py), so that none is named
    if not valid:
        assert "raise data.sequence_length" in message
        return
    named = [float(word) for word in message.split("shares are " if len(valid) > 1 else "share is ")[1].split(" and ")]
    for value in named:  # what is named can be typed
        assert min(abs(value - v) for v in valid) <= 1e-5
        modality_budget(data(length, value), vocabulary, EVEN)
    nearest = min(valid, key=lambda v: abs(share - v))
    assert min(abs(value - nearest) for value in named) <= 1e-5


def test_more_text_than_the_budget_leaves() -> None:
    with pytest.raises(UserError, match=r"image_share=0\.5: 128 tokens bring 140\.0 .* has 128; .* for this corpus is 0\.25$"):
        check_text(KEY, 128, 128, 256, 64, 70.0, fillable=True)
    check_text(KEY, 140, 128, 268, 64, 70.0, fillable=True)


def test_no_text_to_fill_with() -> None:
    with pytest.raises(UserError, match="no text to fill with"):
        check_text(KEY, 128, 128, 256, 64, 20.0, fillable=False)
    check_text(KEY, 40, 128, 168, 64, 20.0, fillable=False)  # nothing to fill
    with pytest.raises(UserError, match="no text to fill with"):
        check_text(KEY, 128, 0, 128, 64, 0.0, fillable=False)
