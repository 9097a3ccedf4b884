"""`import momafuse.huggingface`: transformers' Auto classes know models that `python -m momafuse.export` wrote.

    AutoModelForCausalLM.from_pretrained(FOLDER)      MomafuseForCausalLM: logits of every row, under causal routing

No code travels with the weights. What makes pictures and keeps keys and values is `momafuse.load(FOLDER)`; `generate` of
this class computes the whole sequence anew for every token. Sequences may be padded on either side; a row that is masked has
logits of 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from momafuse.checkpoint.huggingface.exported import MODEL_TYPE, PREFIX, describe
from momafuse.errors import UserError
from momafuse.generation.passes import pass_of
from momafuse.models.transformer import Transformer


class MomafuseConfig(PreTrainedConfig):  # type: ignore[misc]
    """Values of config.json as they are; `checkpoint.huggingface.exported` says what they mean."""

    model_type = MODEL_TYPE


class MomafuseForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    config_class = MomafuseConfig
    base_model_prefix = PREFIX.rstrip(".")

    def __init__(self, config: MomafuseConfig) -> None:
        super().__init__(config)
        d = describe(config.to_dict(), config.name_or_path or "config.json")
        v = self.vocabulary = d.vocabulary
        self.model = Transformer(d.model, d.router, vocabulary_size=v.size, modality_names=v.names)
        if self.model.needs_auxiliary and not d.router.auxiliary:
            raise UserError("this model sees the future: its run has no auxiliary routers (+experiment=aux_routers)")
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Every weight comes from the file."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """ids (B, S), mask (B, S) of 0 and 1 -> logits (B, S, V) in fp32, or of some rows: the last `logits_to_keep`, if it is
        a number above 0, or those that it numbers, if it is a tensor. With labels (B, S; -100: none) their mean cross-entropy,
        each label being that of the row before."""
        there = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        rows = [ids[mask].tolist() for ids, mask in zip(input_ids, there, strict=True)]
        made: Tensor = self.model(
            pass_of([row or [self.vocabulary.specials.pad] for row in rows], self.vocabulary, input_ids.device),
            lambda hidden, head: hidden @ head.t(),
            routing="causal" if self.model.routes else "training",
        )[0].float()
        made = made.view(len(rows), -1, made.shape[-1])
        logits = made.new_zeros(*input_ids.shape, made.shape[-1])
        for n, row in enumerate(rows):
            logits[n, there[n]] = made[n, : len(row)]
        loss = None if labels is None else cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(loss=loss, logits=logits[:, kept])


AutoConfig.register(MODEL_TYPE, MomafuseConfig, exist_ok=True)
AutoModelForCausalLM.register(MomafuseConfig, MomafuseForCausalLM, exist_ok=True)
