"""Which keys change the results of a run, the name that follows from them, and how two configs differ in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

from momafuse.config.overrides import Override
from momafuse.config.schema import RunnableConfig

# Keys (shell patterns) that say where, how long or how loudly a run runs, but not what it computes: they stay out of
# run names, and a run folder may be continued with other values of them. All other keys change the results.
RESULT_NEUTRAL = (
    "run.root",
    "run.name",
    "trainer.max_steps",
    "trainer.max_tokens",
    "trainer.micro_batch",
    "trainer.device",
    "trainer.backend",
    "trainer.activation_checkpointing",
    "trainer.compile",
    "trainer.cuda_graphs",
    "trainer.replicas",
    "trainer.timeout",
    "trainer.dry_step",
    "trainer.max_skipped",
    "trainer.probe",
    "trainer.profile",
    "trainer.eval_every",
    "trainer.eval_sequences",
    "trainer.log_every",
    "checkpoint.*",
    "logger.*",
    "launch.*",
    "data.max_rejects",  # the corpus is what it is
    "prepare.*",
    "show",
    "describe.*",
    "cluster.*",
    "resume",
    "model_from",  # the state of the run says which checkpoint it was
    "out",  # where a trained tokenizer is written
    "hydra.*",
)
# Groups whose choice stays out of run names; what more a user's own file sets is caught by config_differences.
NEUTRAL_GROUPS = ("trainer", "logger", "cluster")

MAX_NAME = 200  # bytes; file systems allow 255, and names of files within grow from it


def changes_results(key: str) -> bool:
    return not any(fnmatchcase(key, pattern) for pattern in RESULT_NEUTRAL)


def run_name(base: str, overrides: Sequence[Override]) -> str:
    """`base-key=value-...` in the order typed: the overrides that change results, fit to be a folder's name."""
    kept = {o.key: o for o in overrides if _names_results(o)}  # of a key typed twice the last counts
    parts = [base, *(f"{o.key}={o.text}" if o.prefix != "~" else f"no_{o.key}" for o in kept.values())]
    return sanitise("-".join(parts))


def sanitise(name: str) -> str:
    """Letters, digits and `._=+,-` only; what is too long ends in a hash of the whole."""
    bare = re.sub(r"[\[\]{}()'\":]", "", re.sub(r"\s*([:,])\s*", r"\1", name))
    clean = re.sub(r"[^A-Za-z0-9._=+,-]+", "_", bare).strip("._")
    if len(clean) > MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        clean = f"{clean[: MAX_NAME - 9]}-{digest}"
    return clean


def config_differences(a: RunnableConfig, b: RunnableConfig) -> list[str]:
    """The dotted keys, of those that change results, in which two configs differ."""
    left, right = dict(_flat(asdict(a))), dict(_flat(asdict(b)))
    keys = [*left, *(k for k in right if k not in left)]
    return [k for k in keys if changes_results(k) and (k not in left or k not in right or left[k] != right[k])]


def _names_results(override: Override) -> bool:
    return override.key not in NEUTRAL_GROUPS if override.is_group else changes_results(override.key)


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
