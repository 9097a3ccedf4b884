"""What an upcycled run takes over from its seed beside the weights, and what must agree (checkpoint/upcycling.py: the weights).

    kept     the place in the data: step 1 reads the sequence after the seed's last, so that nothing is seen twice
             tokens and FLOPs so far: the axes of every report count the seed's
    reset    step number, learning-rate schedule, seconds, the guard; the optimizer unless `upcycling.optimizer=tiled`

A run that has checkpoints of its own goes on from them, and never needs its seed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momafuse.checkpoint import store
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.checkpoint.upcycling import upcycle
from momafuse.config.compose import load_config
from momafuse.config.results import config_differences
from momafuse.config.schema import Config
from momafuse.data.corpus import Corpus
from momafuse.errors import UserError
from momafuse.parallel.sharding import fill
from momafuse.routing.names import SHARED
from momafuse.training.setup import Setup

# What a seed must share: else its place in the data means nothing, or equal shapes hide another function.
SAME = ("data.", "tokenizer.", "run.seed", "model.n_heads", "model.attention.", "model.placement", "model.norm_eps")
IMPORTED = tuple(key for key in SAME if key not in ("data.", "run.seed"))  # weights from elsewhere have no place in any data


@dataclass(frozen=True)
class Seed:
    checkpoint: Path
    state: dict[str, Any]  # its JSON state

    @property
    def imported(self) -> bool:
        """Whether its weights come from elsewhere (exchange/arriving.py)."""
        return "imported" in self.state


def find_seed(config: Config) -> Seed | None:
    """The checkpoint that `upcycle` names. Raises UserError if there is none, it is damaged, or it does not fit."""
    if config.upcycle is None:
        return None
    checkpoint = store.find(Path(config.upcycle), "upcycle")
    seed = Seed(checkpoint, store.read_state(checkpoint))
    theirs = load_config(checkpoint / "config.yaml")
    differences = config_differences(theirs, config)
    if keys := [key for key in differences if key.startswith(IMPORTED if seed.imported else SAME)]:
        remedy = "restore the values of the seed"
        if seed.imported:
            remedy = f"write --config-dir {config.upcycle}/configs size={theirs.run.name}"
        raise UserError(f"upcycle={config.upcycle}: was trained with another {', '.join(keys)}; {remedy}")
    return seed


def take_over(seed: Seed, config: Config, setup: Setup, corpus: Corpus) -> dict[str, Any]:
    """Write the seed's weights into the model; returns what the state of step 0 takes from the seed's.

    Raises UserError where the seed was trained on another corpus, where it cannot become the model, and where nothing would
    ever tell two copies of an expert apart.
    """
    if seed.state["corpus"] != corpus.train.fingerprint and not seed.imported:
        raise UserError(f"{seed.checkpoint}: was trained on another corpus than {corpus.path} holds now; bring it back")
    tensors = StoredTensors(seed.checkpoint)
    _refuse_twins(config, setup, tensors)
    try:
        made = upcycle(setup.model, setup.optimizer, tensors, config.upcycling, config.run.seed, fill)
    except UserError as error:
        raise UserError(f"upcycle={config.upcycle}: {error}") from error
    taken = {key: seed.state[key] for key in ("step", "tokens", "flops")}
    counts = {key: seed.state[key] for key in ("sequences", "tokens", "tokens_of", "flops")}
    return counts | {"upcycled": {"seed": str(seed.checkpoint.resolve()), **taken, "tensors": made}}


def describe(state: Mapping[str, Any]) -> str:
    """One line: which seed, what became of its tensors, and what of it is counted."""
    u = state["upcycled"]
    made = ", ".join(f"{n} {how}" for how, n in u["tensors"].items())
    return (
        f"upcycled from {u['seed']} ({made}): data go on at sequence {state['origin_sequence']}, "
        f"its {u['tokens']:,} tokens and {u['flops']:.3g} FLOPs are counted"
    )


def _refuse_twins(config: Config, setup: Setup, tensors: StoredTensors) -> None:
    """Copies with one router row between them see the same rows and gradients for ever, unless something is drawn."""
    u, shapes = config.upcycling, tensors.shapes()
    if config.noisy or u.weight_noise or u.redraw:
        return
    for g in setup.model.groups:
        routers = [p for p in shapes if p.endswith((f".router.weight.{g.name}", ".router.weight.all"))]
        if g.name != SHARED and g.experts > 1 and any(shapes[p][0] < g.experts for p in routers):
            raise UserError(
                f"router.noise={config.router.noise}: copies of one expert of `{g.name}` would stay equal, since the seed's "
                "router is copied with them; write router.noise=true or upcycling.weight_noise=0.01"
            )
