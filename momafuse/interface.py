"""`momafuse.load`: a trained run in a notebook or a program of one's own.

m = momafuse.load("runs/demo-aux_routers")
m.generate("a red apple:", make="image")[0].parts[0].value      # uint8 (3, S, S)
m.score("<image:apple.png>", " a red apple")                     # nats
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from momafuse.data.codecs import Codec
from momafuse.errors import UserError
from momafuse.evaluation.language_model import LanguageModel
from momafuse.generation.generator import Generator, Made, Tick
from momafuse.generation.passes import pass_of
from momafuse.generation.prompt import ids_of
from momafuse.generation.sampling import Sampling

Codes = npt.NDArray[np.int64]


class Model:
    """Everything under causal routing. A prompt is text with files in it: `<image:cat.png> what is this?`."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.vocabulary = lm.vocabulary
        self.generator = Generator(lm.model, lm.tokenizer, lm.codecs, lm.vocabulary, lm.length)

    @classmethod
    def load(cls, run: str | Path, device: Literal["auto", "cpu", "cuda"] = "auto") -> Model:
        """Raises UserError where `LanguageModel.load` does."""
        return cls(LanguageModel.load(str(run), device))

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.vocabulary.names

    def generate(
        self,
        prompts: str | Sequence[str],
        make: str = "mixed",
        *,
        samples: int = 1,
        sampling: Sampling | None = None,
        most: int | None = None,
        batch: int = 16,
        tick: Tick | None = None,
    ) -> list[Made]:
        """`samples` documents behind each prompt, in order, of `most` tokens at most. `make`: text, a modality, mixed."""
        asked = [prompts] if isinstance(prompts, str) else prompts
        made = self.generator.make(asked, make, sampling or Sampling(), samples=samples, most=most, batch=batch, tick=tick)
        return [one for several in made for one in several]

    def tokens(self, prompt: str) -> list[int]:
        """Ids, `bos` first, no `eos`."""
        return ids_of(prompt, self.lm.tokenizer, self.lm.codecs, self.vocabulary)

    def score(self, prompt: str, continuation: str) -> float:
        """log p(continuation | prompt) in nats; both may hold items."""
        return self.scores([(prompt, continuation)])[0]

    def scores(self, pairs: Sequence[tuple[str, str]], batch: int = 8) -> list[float]:
        """The same of many pairs, `batch` in a forward pass."""
        ids: dict[str, list[int]] = {text: self.tokens(text) for pair in pairs for text in pair}
        found = dict(self.lm.scores([(ids[a], ids[b][1:]) for a, b in pairs], batch))
        return [found[n][0] for n in range(len(pairs))]

    @torch.inference_mode()
    def logits(self, prompt: str | Sequence[int]) -> Tensor:
        """(S, V) fp32, row i of the id behind the first i + 1 ones."""
        ids = self.tokens(prompt) if isinstance(prompt, str) else list(prompt)
        if not 0 < len(ids) <= self.lm.length:
            raise UserError(f"a prompt of {len(ids)} tokens; this run's sequences have {self.lm.length}")
        found: Tensor = self.lm.model(
            pass_of([ids], self.vocabulary, self.lm.device),
            lambda hidden, head: (hidden @ head[: self.vocabulary.size].t()).float().cpu(),
            routing="causal" if self.lm.model.routes else "training",
        )[0]
        return found

    def encode(self, modality: str, item: str | Path | bytes) -> Codes:
        """Codes of a file of that modality, or of its bytes. Raises UserError where it cannot be read."""
        codec = self._codec(modality)
        try:
            data = item if isinstance(item, bytes) else Path(item).expanduser().read_bytes()
            return codec.encode([codec.read(data)])[0]
        except (OSError, ValueError) as error:
            raise UserError(f"{modality}: {error}") from error

    def decode(self, modality: str, codes: Codes) -> Any:
        """An item as the modality's codec gives it: samples of speech, a picture as uint8 (3, S, S)."""
        return self._codec(modality).decode(np.asarray(codes, np.int64))

    def encode_image(self, item: str | Path | bytes) -> Codes:
        return self.encode("image", item)

    def decode_image(self, codes: Codes) -> Image.Image:
        return Image.fromarray(np.asarray(self.decode("image", codes)).transpose(1, 2, 0))

    def _codec(self, modality: str) -> Codec:
        if modality not in self.lm.codecs:
            raise UserError(f"{modality}: this run knows {', '.join(self.modalities)}")
        return self.lm.codecs[modality]
