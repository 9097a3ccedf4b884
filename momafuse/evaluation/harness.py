"""A trained run as a model of EleutherAI's lm-eval (the extra `eval`): its text tasks by log-likelihood, for MoMa's Table 4.

Tasks are judged as lm-eval does it; the scores are language_model.py's. Tasks that generate are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.console import Console
from rich.progress import track

from momafuse.errors import UserError
from momafuse.evaluation.language_model import LanguageModel, Score

DEVICES: dict[str | None, Literal["auto", "cpu", "cuda"]] = {None: "auto", "auto": "auto", "cpu": "cpu", "cuda": "cuda"}


@register_model("momafuse")
class RunLM(TemplateLM):  # type: ignore[misc]
    """`--model_args run=PATH`; `--batch_size` texts in a forward pass, `--device` auto, cpu or cuda."""

    def __init__(
        self, run: str, device: str | None = None, batch_size: int | str = 8, max_batch_size: int | None = None
    ) -> None:
        """Raises UserError for a run that cannot be read or scored. `max_batch_size` has no meaning here."""
        super().__init__()
        if device not in DEVICES:
            raise UserError(f"--device={device}: choose auto, cpu or cuda")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise UserError(f"--batch_size={batch_size}: give a number of texts, e.g. 8")
        self._lm, self._batch = LanguageModel.load(str(run), DEVICES[device]), int(batch_size)

    @property
    def eot_token_id(self) -> int:
        return self._lm.vocabulary.specials.eos

    @property
    def prefix_token_id(self) -> int:
        return self._lm.vocabulary.specials.bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """With `bos` first, as documents have it, unless `add_special_tokens` is False."""
        ids = self._lm.encode(string)
        return ids if add_special_tokens is False else [self.prefix_token_id, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[Score]:
        console = Console(stderr=True)
        found: dict[int, Score] = {}
        scores = self._lm.scores([(context, continuation) for _, context, continuation in requests], self._batch)
        silent = disable_tqdm or not console.is_terminal
        for n, score in track(scores, "texts", len(requests), console=console, transient=True, disable=silent):
            found[n] = score
        return [found[n] for n in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in windows that do not overlap where one is longer than a sequence."""
        windows = []
        for n, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            cut = get_rolling_token_windows(ids, self.prefix_token_id, self._lm.length, 1)
            windows += [(n, *make_disjoint_window(window)) for window in cut]
        totals = [0.0] * len(requests)
        for (n, _, _), (score, _) in zip(windows, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[n] += score
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        raise UserError(
            f"--tasks: {requests[0].task_name} generates text, which is not supported; choose tasks that compare texts"
        )
