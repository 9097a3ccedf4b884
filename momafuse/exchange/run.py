"""A run that is to leave, opened: its config, tokenizers and what it may be called elsewhere; no weight is in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from momafuse.checkpoint import store
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.config.compose import import_plugins, load_config
from momafuse.config.schema import EXPERT_LAYERS, Config, ModelConfig
from momafuse.data.codecs import Codec, load_codecs, vocabulary_of
from momafuse.routing.names import ALL, SHARED
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary


@dataclass(frozen=True)
class Run:
    checkpoint: Path
    config: Config
    text: TextTokenizer
    codecs: Mapping[str, Codec]
    vocabulary: Vocabulary
    tensors: StoredTensors

    @classmethod
    def open(cls, run: str) -> Run:
        """A run folder (its newest checkpoint) or a checkpoint. Raises UserError where there is none, or it is damaged."""
        checkpoint = store.find(Path(run).expanduser(), "run")
        config = load_config(checkpoint / "config.yaml")
        import_plugins(config.plugins)
        text, codecs = TextTokenizer.load(config.tokenizer[TEXT]), load_codecs(config.tokenizer)
        store.verify(checkpoint)
        return cls(checkpoint, config, text, codecs, vocabulary_of(text, codecs), StoredTensors(checkpoint))

    @property
    def folder(self) -> Path:
        return self.checkpoint.parent.parent if self.checkpoint.parent.name == "checkpoints" else self.checkpoint

    @property
    def rows(self) -> int:
        """Of embedding and head."""
        return self.tensors.shapes()["embedding.weight"][0]


def of_text(model: ModelConfig) -> ModelConfig:
    """The model without the groups that serve other modalities alone."""
    kept = {TEXT, ALL, SHARED, *EXPERT_LAYERS}
    groups = {name: n for name, n in model.experts.items() if name in kept or TEXT in name.split("+")}
    return replace(model, experts=groups, width_share={g: w for g, w in model.width_share.items() if g in groups})


def text_alone(vocabulary: Vocabulary) -> Vocabulary:
    """The same ids; those of other modalities have none."""
    return replace(vocabulary, modalities=(vocabulary.modality(TEXT),))
