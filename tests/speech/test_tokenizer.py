"""The frozen speech tokenizer: shapes, independence of company and of pieces, its file, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from momafuse.data.codecs import load_codecs
from momafuse.errors import UserError
from momafuse.speech import tokenizer as module
from momafuse.speech.autoencoder import FOLD, Fold, SpeechAutoencoder, Unfold, reach
from momafuse.speech.mel import BANDS, RATE, log_mel
from momafuse.speech.tokenizer import LEVEL, SpeechTokenizer, frames_of, levelled
from tests.speech.conftest import ARCH
from tests.speech.sounds import encoded, voice


@pytest.mark.parametrize("samples", [1, 640, 641, 16_000])
def test_a_code_for_40_ms_begun(speech_weights: Path, samples: int) -> None:
    codec = SpeechTokenizer.load(str(speech_weights))
    (codes,) = codec.encode([voice(1, RATE)[:samples] + np.float32(0.01)])
    assert codes.dtype == np.int64
    assert len(codes) == -(-samples // 640)
    assert 0 <= codes.min() <= codes.max() < codec.codes == 20
    decoded = codec.decode(codes)
    assert decoded.shape == (640 * len(codes),)
    assert np.isfinite(decoded).all()


def test_codes_do_not_depend_on_company_nor_on_pieces(speech_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = SpeechTokenizer.load(str(speech_weights))
    sounds = [voice(0.5 + n, RATE, n) for n in range(4)]
    together = codec.encode(sounds)
    assert len(np.unique(np.concatenate(together))) > 5, "codes are spread, so that the test can fail"
    frames = codec.frames_from(together[3])
    for sound, codes in zip(sounds, together, strict=True):
        assert codec.encode([sound])[0].tolist() == codes.tolist()
    monkeypatch.setattr(module, "PIECE", 10)
    assert [codes.tolist() for codes in codec.encode(sounds)] == [codes.tolist() for codes in together]
    torch.testing.assert_close(codec.frames_from(together[3]), frames, atol=1e-4, rtol=1e-4)


def test_nothing_hangs_on_what_is_out_of_reach(speech_weights: Path) -> None:
    """By gradients, of a double-precision model: the farthest code and frame that matter are within `reach`."""
    torch.manual_seed(0)
    model = SpeechAutoencoder(ARCH).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vectors = torch.randn(1, 81, ARCH.code_dim, dtype=torch.float64, requires_grad=True)
    model.decoder(vectors.transpose(1, 2))[0, :, 4 * 40 : 4 * 40 + 4].sum().backward()
    touched = vectors.grad[0].abs().sum(-1).nonzero().flatten() - 40
    assert 5 <= int(touched.abs().max()) <= reach(ARCH)
    frames = torch.randn(1, BANDS, 4 * 81, dtype=torch.float64, requires_grad=True)
    model.encoder(frames)[0, :, 40].sum().backward()
    touched = frames.grad[0].abs().sum(0).nonzero().flatten() // FOLD - 40
    assert 1 <= int(touched.abs().max()) <= reach(ARCH)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))
def test_folding_keeps_every_number(n: int, channels: int, length: int) -> None:
    x = torch.arange(n * channels * 4 * length, dtype=torch.float32).view(n, channels, 4 * length)
    folded = Fold()(x)
    for c in range(channels):
        for t in range(4 * length):
            assert torch.equal(folded[:, 4 * c + t % 4, t // 4], x[:, c, t])
    assert torch.equal(Unfold()(folded), x)


def test_loudness_is_levelled() -> None:
    sound = voice(1, RATE)
    quiet, loud = levelled(sound * 0.01), levelled(sound)
    np.testing.assert_allclose(quiet, loud, atol=1e-5)
    frames = np.sqrt(np.square(loud.reshape(-1, 640)).mean(axis=1))
    assert np.sort(frames)[-2] == pytest.approx(LEVEL, rel=0.02)
    assert np.abs(levelled(np.float32([0, 0, 0.5]))).max() <= 1


def test_a_file_of_any_rate_gives_an_item(speech_weights: Path) -> None:
    codec = SpeechTokenizer.load(str(speech_weights))
    item = codec.read(encoded(voice(1, 44_100), 44_100))
    assert abs(len(item) - RATE) <= 2
    assert frames_of(item).shape == (BANDS, 100)
    (drawn,) = codec.drawn([item])
    assert drawn.shape == (BANDS, -(-len(item) // 160))
    assert 0 <= drawn.min() < drawn.max() <= 1.2
    assert float(drawn[:, 50].mean()) == pytest.approx(
        float((1 + log_mel(torch.from_numpy(item))[:, 50] / 3.5).mean()), abs=1e-5
    )


def test_names_and_damage(speech_weights: Path, tmp_path: Path) -> None:
    assert load_codecs({"speech": str(speech_weights)})["speech"].codes == 20
    assert load_codecs({"speech": "codec2_700c"})["speech"].codes == 1104
    with pytest.raises(
        UserError, match=r"^tokenizer\.speech=no_such: no packaged .* use starter_speech_v1 or codec2_700c or the path"
    ):
        SpeechTokenizer.load("no_such")
    (short := tmp_path / "short.safetensors").write_bytes(speech_weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"tokenizer\.speech=.*damaged.*tokenizer=speech_vq"):
        SpeechTokenizer.load(str(short))


def test_a_picture_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"starter_vq_v1: not a speech tokenizer, .*format is momafuse-vq-1"):
        SpeechTokenizer.load("starter_vq_v1")


def test_codes_out_of_range_are_refused(speech_weights: Path) -> None:
    codec = SpeechTokenizer.load(str(speech_weights))
    assert codec.decode(np.zeros(0, np.int64)).shape == (0,)
    for wrong in ([20], [-1, 3]):
        with pytest.raises(ValueError, match=r"need 0\.\.19"):
            codec.decode(np.array(wrong))
