"""What the stages of a language model share: batches of a corpus, the modality budget, counts of tokens, the probe.

State beside the loop's: sequences and tokens so far, the latter also by modality, FLOPs, the sequence that step 1 began with,
those that stages of the mixture begin with, and of an upcycled run what it took over (seed.py).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar

from momafuse.config.schema import Config
from momafuse.config.shares import largest
from momafuse.data.batch import Batch
from momafuse.data.corpus import Corpus
from momafuse.models.transformer import Observe
from momafuse.parallel.compilation import is_compiled
from momafuse.reports.logger import Logger
from momafuse.reports.mixture import passed_often, stage_lines
from momafuse.training.finish import report_evaluation
from momafuse.training.held_out import HeldOut
from momafuse.training.losses import count_targets
from momafuse.training.probe import Probe
from momafuse.training.schedule import total_steps
from momafuse.training.seed import Seed, describe, take_over
from momafuse.training.setup import Setup
from momafuse.training.stage import Stage

STAGES = "stages"  # in the state; older ones lack it, and had none


class LanguageStage(Stage[Batch, HeldOut]):
    unit: ClassVar[str] = "tokens"
    item: ClassVar[str] = "sequence"
    counted: ClassVar[tuple[str, ...]] = ("tokens", "flops")

    config: Config
    observe: Observe | None = None  # what the forwards of this step call for every layer

    def __init__(self, config: Config, setup: Setup, corpus: Corpus) -> None:
        self.config, self.setup, self.corpus = config, setup, corpus
        self.name, self.data = config.model.name, corpus.train.fingerprint
        self.reads = f"the corpus {corpus.path}"
        self.world, self.dtype, self.model, self.working = setup.world, setup.dtype, setup.model, setup.working
        self.optimizers = [setup.optimizer]
        self._probe = Probe(config.trainer.probe, setup, config.trainer.replicas)

    def first_state(self, seed: Seed | None) -> dict[str, Any]:
        counts = {"sequences": 0, "tokens": 0, "tokens_of": dict.fromkeys(self.corpus.vocabulary.names, 0), "flops": 0.0}
        if seed is None:
            counts |= {"upcycled": None}
        else:
            counts |= take_over(seed, self.config, self.setup, self.corpus)
        return counts | {"origin_sequence": counts["sequences"], STAGES: list(self.setup.plan.begins)}

    def introduction(self, state: Mapping[str, Any]) -> list[str]:
        lines = []
        if is_compiled(self.setup.model):
            lines.append("compiling the blocks: seconds to minutes before the first step, unless torch's cache has them")
        if self.world.mesh is not None:
            mine = self.config.trainer.global_batch // self.world.size
            names, budget = self.setup.model.modality_names, self.setup.plan.budget
            own = " and ".join(f"{mine * n} {m}" for m, n in zip(names, budget, strict=True))
            lines.append(f"every rank takes {own} tokens on every step, by construction")
        lines += [] if state["upcycled"] is None else [describe(state)]
        plan, planned = self.setup.plan, state["origin_sequence"] + total_steps(self.config) * self.config.trainer.global_batch
        return [*lines, *map(str, plan.shares()), *stage_lines(plan, planned), *passed_often(plan.uses(planned))]

    def rehearse(self) -> None:
        self.backward(self.setup.train.batch(range(self.config.trainer.micro_batch)), weight=1, step=0)

    def smaller(self) -> tuple[str, list[str]]:
        t = self.config.trainer
        smaller = largest(t.global_batch // self.world.size, t.micro_batch - 1, self.config.together)
        remedies = [f"trainer.micro_batch={smaller}"] if smaller else []
        remedies += ["trainer.activation_checkpointing=full"] if t.activation_checkpointing != "full" else []
        return f"{t.micro_batch} sequences of {self.config.data.sequence_length} tokens at once", remedies

    def stream(self, state: Mapping[str, Any]) -> Generator[list[Batch], None, None]:
        t, world = self.config.trainer, self.world
        shape = {"global_batch": t.global_batch, "micro_batch": t.micro_batch, "rank": world.rank, "world": world.size}
        origin, pinned = state["origin_sequence"], world.device.type == "cuda"
        return self.setup.train.stream(state["step"], **shape, origin=origin, pinned=pinned)

    def slow_data(self) -> str:
        path = self.corpus.path
        return (
            f"put {path} on a faster disk, or leave more cores to the process; what one core reads says "
            f"`python scripts/bench_loader.py --corpus {path}`"
        )

    def weight(self, micro_batches: Sequence[Batch]) -> int:
        return count_targets(micro_batches)

    def begin(self, step: int, state: Mapping[str, Any]) -> dict[str, float]:
        self.observe = self._probe.begin(step)
        return super().begin(step, state)

    def watched(self) -> dict[str, list[Any]]:
        """Of the routers: it tells of starving ones under swin (routing/statistics.py)."""
        routes = self.setup.model.routes
        return {"router": [p for path, p in self.model.named_parameters() if "router" in path]} if routes else {}

    def before_update(self) -> None:
        self._probe.before_update()

    def after_update(self, step: int, *, made: bool) -> dict[str, float]:
        return self._probe.row()

    def count(self, state: dict[str, Any], step: int) -> None:
        sequences, budget = self.config.trainer.global_batch, self.setup.plan.budget
        of = {m: state["tokens_of"][m] + sequences * n for m, n in zip(state["tokens_of"], budget, strict=True)}
        tokens = state["tokens"] + self.of_step()
        state.update(sequences=state["sequences"] + sequences, tokens=tokens, tokens_of=of)
        state.update(flops=state["flops"] + self.flops(step))

    def of_step(self) -> int:
        return self.config.trainer.global_batch * self.config.data.sequence_length

    def report(self, found: HeldOut, state: Mapping[str, Any], logger: Logger) -> None:
        report_evaluation(found, state, logger)
