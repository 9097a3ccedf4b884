"""A trained run as a language model over all its ids: log-likelihoods of documents, one a sequence, under causal routing.

    log p(continuation | context) = sum_i log softmax(head h_(i - 1))[x_i],   x = bos, context, continuation

The softmax is over all ids, those of pictures too, as in training. What is longer than the run's sequences loses its
beginning. Does not know any benchmark (harness.py) and samples nothing (generation/).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from momafuse.checkpoint import store
from momafuse.checkpoint.huggingface.exported import is_exported, open_exported, read_weights
from momafuse.config.compose import import_plugins, load_config
from momafuse.config.schema import Config
from momafuse.data.codecs import Codec, load_codecs, vocabulary_of
from momafuse.errors import UserError
from momafuse.generation.passes import Pass, pass_of
from momafuse.kernels.cross_entropy import rows_at_once
from momafuse.models.transformer import Transformer
from momafuse.parallel.precision import apply_precision, resolve_device, resolve_precision, round_products
from momafuse.routing.auxiliary import Routing
from momafuse.routing.config import RouterConfig
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary
from momafuse.training.setup import build_model
from momafuse.world import World

Score = tuple[float, bool]  # log-likelihood in nats; whether every token was the most likely one
TRAIN = "python -m momafuse.train +experiment=aux_routers model_from="


class LanguageModel:
    """`length`: tokens of a sequence at most."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: TextTokenizer,
        codecs: Mapping[str, Codec],
        vocabulary: Vocabulary,
        length: int,
    ) -> None:
        self.model, self.tokenizer, self.codecs = model.eval(), tokenizer, codecs
        self.vocabulary, self.length = vocabulary, length
        self.device = next(model.parameters()).device

    @classmethod
    def load(cls, run: str, device: Literal["auto", "cpu", "cuda"] = "auto") -> LanguageModel:
        """The newest checkpoint of a run folder, the checkpoint that `run` names, or what `momafuse.export` made of one.

        Raises UserError where there is none, and for a model whose routers see the future and that has no auxiliary ones.
        """
        if is_exported(Path(run).expanduser()):
            return cls._exported(run, resolve_device(device))
        checkpoint = store.find(Path(run).expanduser(), "run")
        config = load_config(checkpoint / "config.yaml")
        import_plugins(config.plugins)
        text = TextTokenizer.load(config.tokenizer["text"])
        codecs = load_codecs(config.tokenizer)
        vocabulary = vocabulary_of(text, codecs)
        store.verify(checkpoint)
        world = World(0, 1, resolve_device(device), None, None)
        model, dtype = build_model(_plain(config), vocabulary, world)
        _refuse_ahead(model, config.router, run, f"train them: {TRAIN}{run}")
        store.load(checkpoint, model, [], world)
        round_products(model, dtype)
        return cls(model, text, codecs, vocabulary, config.data.sequence_length)

    @classmethod
    def _exported(cls, folder: str, device: torch.device) -> LanguageModel:
        found = open_exported(Path(folder).expanduser())
        text, codecs = TextTokenizer.load(found.tokenizers[TEXT]), load_codecs(found.tokenizers)
        there = {TEXT: text.fingerprint} | {modality: codec.fingerprint for modality, codec in codecs.items()}
        if odd := [modality for modality, print_ in there.items() if print_ != found.fingerprints.get(modality)]:
            raise UserError(f"{folder}: its {odd[0]} tokenizer is not the one that it was made with; export the run again")
        model = found.build()
        _refuse_ahead(model, found.router, folder, f"train them for the run that it was made of, and export those: {TRAIN}RUN")
        dtype = resolve_precision(found.precision, device)
        apply_precision(model, dtype)
        read_weights(Path(folder).expanduser(), model.to_empty(device=device))
        round_products(model, dtype)
        return cls(model, text, codecs, found.vocabulary, found.length)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without `bos`."""
        first = self.vocabulary.modality("text").first
        return [first + int(piece) for piece in self.tokenizer.encode([text])[0]]

    def scores(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch: int = 8) -> Iterator[tuple[int, Score]]:
        """Number and score of each (context, continuation) of ids, the longest ones first, `batch` in a forward pass.

        A context begins with `bos` unless it goes on with a document. Raises UserError where a continuation does not fit
        into a sequence.
        """
        if (longest := max((len(continuation) for _, continuation in pairs), default=0)) > self.length:
            raise UserError(f"a text of {longest} tokens is to be scored, but this run's sequences have {self.length}")
        rows = [[*context, *continuation][-self.length - 1 :] for context, continuation in pairs]
        order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))  # what is too much for memory shows at once
        for at in range(0, len(order), batch):
            numbers = order[at : at + batch]
            yield from zip(numbers, self._score([(rows[n], len(pairs[n][1])) for n in numbers]), strict=True)

    @torch.no_grad()
    def _score(self, rows: Sequence[tuple[list[int], int]]) -> list[Score]:
        """Rows of ids, and how many of their last ones count."""
        batch = pass_of([ids[:-1] for ids, _ in rows], self.vocabulary, self.device)
        s = batch.tokens.shape[1]
        at = [n * s + place - 1 for n, (ids, count) in enumerate(rows) for place in range(len(ids) - count, len(ids))]
        targets = [i for ids, count in rows for i in ids[len(ids) - count :]]
        likely, greedy = self._forward(batch, *(torch.tensor(x, device=self.device) for x in (at, targets)))
        parts = [count for _, count in rows]
        pairs = zip(torch.split(likely.double().cpu(), parts), torch.split(greedy.cpu(), parts), strict=True)
        return [(float(part.sum()), bool(best.all())) for part, best in pairs]

    def _forward(self, batch: Pass, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood (n,) of the targets (n,) after these rows (n,), and whether each is the most likely id (n,)."""

        def judge(hidden: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
            likely, best = [], []
            step = rows_at_once(head)
            for part, wanted in zip(torch.split(hidden[rows], step), torch.split(targets, step), strict=True):
                logits = (part @ head.t()).float()
                likely.append(torch.log_softmax(logits, -1).gather(1, wanted[:, None])[:, 0])
                best.append(logits.argmax(-1) == wanted)
            return torch.cat(likely), torch.cat(best)

        routing: Routing = "causal" if self.model.routes else "training"  # without routers nothing looks ahead
        found: tuple[Tensor, Tensor] = self.model(batch, judge, routing=routing)[0]
        return found


def _refuse_ahead(model: Transformer, router: RouterConfig, run: str, remedy: str) -> None:
    if model.needs_auxiliary and not router.auxiliary:
        raise UserError(f"run={run}: has no auxiliary routers, without which it sees the future; {remedy}")


def _plain(config: Config) -> Config:
    """With nothing that only training needs."""
    trainer = replace(config.trainer, activation_checkpointing="none", compile=False, backend="auto")
    return replace(config, trainer=trainer)
