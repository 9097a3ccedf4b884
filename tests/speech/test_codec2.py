from __future__ import annotations

import numpy as np
import pycodec2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.errors import UserError
from momafuse.speech.codec2 import FIRSTS, FRAME, Codec2, packed
from tests.speech.sounds import voice


@pytest.fixture(scope="module")
def codec() -> Codec2:
    return Codec2.load("codec2_700c")


def bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)[:28]


@pytest.mark.parametrize("samples", [1, FRAME, FRAME + 1, 10 * FRAME])
def test_codes_are_the_fields_of_the_bits(codec: Codec2, samples: int) -> None:
    """Against the library's own bytes, field by field as text."""
    sound = voice(1, 8_000)[:samples]
    codes = codec.encode([sound])[0].tolist()
    coder, expected = pycodec2.Codec2(700), []
    whole = np.pad(np.round(sound * 32767).astype(np.int16), (0, -samples % FRAME))
    for start in range(0, len(whole), FRAME):
        row = bits(coder.encode(whole[start : start + FRAME]))
        expected += [int(row[:9], 2), 512 + int(row[9:18], 2), 1024 + int(row[18:22], 2), 1040 + int(row[22:28], 2)]
    assert codes == expected
    assert all(0 <= c < codec.codes for c in codes)


def test_what_is_decoded_are_the_librarys_bits(codec: Codec2) -> None:
    """The sound itself differs between two decoders of one row: unvoiced phases are drawn."""
    sound = voice(2, 8_000)
    coder = pycodec2.Codec2(700)
    expected = [bits(coder.encode(frame)) for frame in np.round(sound * 32767).astype(np.int16).reshape(-1, FRAME)]
    codes = codec.encode([sound])[0]
    assert [bits(frame) for frame in packed(codes)] == expected
    decoded = codec.decode(codes)
    assert len(decoded) == len(sound)
    loud, quiet = np.abs(decoded).mean(), np.abs(sound).mean()
    assert 0.2 < loud / quiet < 5


def test_an_item_has_the_same_codes_in_any_company(codec: Codec2) -> None:
    sounds = [voice(0.3 + 0.1 * n, 8_000, n) for n in range(4)]
    alone = [codec.encode([sound])[0].tolist() for sound in sounds]
    assert [codes.tolist() for codes in codec.encode(sounds)] == alone


@settings(max_examples=30)
@given(st.lists(st.integers(0, 1103), max_size=30))
def test_any_row_of_codes_can_be_decoded(codes: list[int]) -> None:
    """As many frames as stand whole in it: what is sampled or cut is no error."""
    fields = [max(i for i, first in enumerate(FIRSTS) if first <= code) for code in codes]
    whole = sum(fields[i : i + 4] == [0, 1, 2, 3] for i in range(len(fields)))
    sound = Codec2.load("codec2_700c").decode(np.array(codes, np.int64))
    assert len(sound) == whole * FRAME
    assert np.isfinite(sound).all()


def test_another_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.speech=codec3: no such codec of speech; there is codec2_700c"):
        Codec2.load("codec3")
