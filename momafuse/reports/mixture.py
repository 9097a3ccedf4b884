"""What a run takes of each source, by stage of its mixture: a tree for the console, lines for the start of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.tree import Tree

from momafuse.data.corpus import Corpus
from momafuse.data.stages import StagedPlan, Use

# Passes over a source up to which its data were found nearly as good as fresh (Muennighoff et al., arXiv 2305.16264).
MOST_PASSES = 4.0


@dataclass(frozen=True)
class Taken:
    """Of a source, in words: what it holds, how often a run passes it, and what each stage takes."""

    source: str
    holds: str
    passed: str
    stages: list[str]


def taken(plan: StagedPlan, corpus: Corpus, sequences: int, global_batch: int) -> list[Taken]:
    """By the first `sequences` of a run, of every source of the training split."""
    names, uses, found = corpus.vocabulary.names, plan.uses(sequences), list[Taken]()
    for source in corpus.train.sources:
        own = [[use for use in several if use.source == source.name] for several in uses]
        variants = corpus.manifest["sources"][source.name]["variants"]
        each = f" ({variants} of each)" if variants > 1 and not source.plain else ""
        passed = f"passed {sum(use.passes for several in own for use in several):.2f} times"
        stages = [_described(several[0], names) if several else "not used" for several in own]
        if plan.begins:
            begins = (begin // global_batch + 1 for begin in (0, *plan.begins))
            stages = [f"from step {step:,} on: {stage}" for step, stage in zip(begins, stages, strict=False)]
        holds = f"{source.documents:,} documents{each}, {tokens_of(source.tokens, names)} tokens"
        found.append(Taken(source.name, holds, passed, stages))
    return found


def planned(plan: StagedPlan, corpus: Corpus, sequences: int, global_batch: int) -> str:
    """How long the run is, in words."""
    length, budget = sum(plan.budget), tokens_of(plan.budget, corpus.vocabulary.names)
    shape = f"{sequences // global_batch:,} steps of {global_batch:,} sequences of {length:,} tokens ({budget})"
    return f"{shape}, {sequences * length:,} tokens in all"


def plan_tree(plan: StagedPlan, corpus: Corpus, sequences: int, global_batch: int) -> Tree:
    """Of the first `sequences` of a run."""
    tree = Tree(f"planned: {planned(plan, corpus, sequences, global_batch)}")
    for source in taken(plan, corpus, sequences, global_batch):
        branch = tree.add(f"{source.source}: {source.holds}: {source.passed}")
        for stage in source.stages:
            branch.add(stage)
    return tree


def passed_often(uses: Sequence[Sequence[Use]]) -> list[str]:
    """A line for every source that is passed more often than is of use."""
    passes: dict[str, float] = {}
    for use in (use for several in uses for use in several):
        passes[use.source] = passes.get(use.source, 0.0) + use.passes
    good = f"up to {MOST_PASSES:g} passes were found nearly as good as fresh data (arXiv 2305.16264)"
    return [
        f"{name} is passed {count:.1f} times: {good}; give it less weight, more data or fewer steps"
        for name, count in passes.items()
        if count > MOST_PASSES
    ]


def stage_lines(plan: StagedPlan, sequences: int) -> list[str]:
    """Of a run of so many sequences: the shares of every stage but the first."""
    lines = []
    for begin, several in zip(plan.begins, plan.uses(sequences)[1:], strict=False):
        shares = ", ".join(f"{use.source} {use.realised:.2%} of the {use.of} budget" for use in several)
        lines.append(f"from sequence {begin:,} on: {shares}")
    return lines


def tokens_of(counts: Sequence[int], names: Sequence[str]) -> str:
    """By modality, those that there are."""
    return " + ".join(f"{n:,} {name}" for n, name in zip(counts, names, strict=True) if n) or "no"


def _described(use: Use, names: Sequence[str]) -> str:
    share = f"{use.realised:.2%} of the {use.of} budget (asked {use.requested:.2%})"
    return f"{share}, {use.passes:.2f} passes, {tokens_of(use.tokens.tolist(), names)} tokens"
