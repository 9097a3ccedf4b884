from __future__ import annotations

from pathlib import Path

import pytest
import torch

from momafuse.speech.autoencoder import SpeechAutoencoder
from momafuse.speech.config import SpeechArchitecture
from momafuse.speech.tokenizer import save_tokenizer
from momafuse.vq.codes import CodeTable

ARCH = SpeechArchitecture(
    codes=20, code_dim=4, frame_channels=8, code_channels=12, frame_blocks=1, encoder_blocks=2, decoder_blocks=4
)


@pytest.fixture(scope="session")
def speech_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of random values in every tensor."""
    torch.manual_seed(0)
    model = SpeechAutoencoder(ARCH)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("speech") / "tiny.safetensors"
    save_tokenizer(path, ARCH, model, CodeTable(torch.nn.functional.normalize(torch.randn(20, 4), dim=-1), "sphere"))
    return path
