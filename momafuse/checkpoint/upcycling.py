"""Sparse upcycling: the weights of a trained seed become those of another member of the family, by rules that are data.

    copy    the same tensor
    tile    along dim 0: expert e of the model is expert e // times of the seed, so that copies lie side by side
    untie   each modality gets what all shared
    fresh   stays as it was drawn (models/initialise.py): routers, where the seed has none
    (2212.05055; MoMa, arXiv 2407.21770, section 2.5)

RULES is tried from above: the first whose target fits the path, and whose source the seed has, holds for that tensor. Every
tensor of the seed must be used, and every shape must fit: nothing is cut, padded or left out.

Copies can be told apart: `redraw` draws a share of the hidden columns of each anew, the same columns in gate, up and down,
with the mean and standard deviation that they had (Drop-Upcycling, 2502.19261); `weight_noise` adds normal noise to each.
Both are keyed by (seed, path), so that they are the same at any number of ranks.

Tensors come one by one from the shards of the seed's checkpoint, whatever number of ranks wrote it; each rank holds one whole
tensor at a time. Does not know what must agree beside the tensors (training/seed.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from momafuse.checkpoint.tensors import MOMENTS, Shape, StoredTensors
from momafuse.config.schema import UpcyclingConfig
from momafuse.errors import UserError
from momafuse.models.initialise import generator

How = Literal["copy", "tile", "untie", "fresh"]
NAMED = 4  # tensors in a message


@dataclass(frozen=True)
class Rule:
    target: str  # a regular expression of the whole path
    source: str | None  # the path in the seed, with the groups of `target`
    how: How


ONE = r"\.(?!all$|all\.|shared)[\w+]+"  # the name of a modality, or of those of a tower
RULES = (
    Rule(r"(.*\.experts\.(?:groups|router)\..*)", r"\1", "tile"),  # a group that the seed has
    Rule(r"(.*)", r"\1", "copy"),
    Rule(rf"(.*\.experts\.groups){ONE}\.(\w+)", r"\1.all.\2", "tile"),  # a modality's, where all shared one group
    Rule(rf"(.*\.experts\.router\.weight){ONE}", r"\1.all", "tile"),
    Rule(rf"(.*\.(?:attention|attention_norm|ffn_norm)\..*(?:weight|bias)){ONE}", r"\1", "untie"),
    Rule(r".*\.experts\.router\.(?:weight|state)\.[\w+]+", None, "fresh"),
)


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the model comes from."""

    source: str | None
    how: How
    times: int = 1  # copies of each expert


def trace(model: Mapping[str, Shape], seed: Mapping[str, Shape]) -> dict[str, Origin]:
    """The origin of every tensor of the model. Raises UserError, which names what does not fit, without the key."""
    origins, misfits = {}, []
    for path, shape in model.items():
        origin = _origin(path, seed)
        if origin is None:
            misfits.append(f"{path} {shape} has no source")
            continue
        source = shape if origin.source is None else seed[origin.source]
        times = shape[0] // source[0] if origin.how == "tile" else 1
        if (source[0] * times, *source[1:]) != shape:
            misfits.append(f"{path} is {shape}, its source {source}")
        origins[path] = Origin(origin.source, "copy" if origin.how == "tile" and times == 1 else origin.how, times)
    used = {origin.source for origin in origins.values()}
    misfits += [f"{path} of the seed has no place" for path in seed if path not in used]
    if misfits:
        raise UserError("the seed cannot become this model: " + _counted(misfits))
    return origins


def _origin(path: str, seed: Mapping[str, Shape]) -> Origin | None:
    for rule in RULES:
        if (match := re.fullmatch(rule.target, path)) is not None:
            source = None if rule.source is None else match.expand(rule.source)
            if source is None or source in seed:
                return Origin(source, rule.how)
    return None


def _counted(misfits: list[str]) -> str:
    """The first misfit of each kind, with the number of layers that have it."""
    kinds = Counter(re.sub(r"^blocks\.\d+\.", "blocks.*.", m) for m in misfits)
    named = [kind + (f" ({n} layers)" if n > 1 else "") for kind, n in kinds.most_common(NAMED)]
    return "; ".join(named) + (f"; and {len(kinds) - NAMED} more" if len(kinds) > NAMED else "")


@torch.no_grad()
def upcycle(
    model: nn.Module,
    optimizer: Optimizer,
    tensors: StoredTensors,
    config: UpcyclingConfig,
    seed: int,
    fill: Callable[[Tensor, Tensor], object],
) -> dict[How, int]:
    """Write the seed's weights into an initialised model, and its moments into the optimizer if `config` says so.

    `fill(parameter, full tensor)` writes one. Every rank may call it alone. Returns how many tensors each rule made. Raises
    UserError where the seed cannot become the model; nothing is written then.
    """
    parameters: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    origins = trace({path: tuple(p.shape) for path, p in parameters.items()}, tensors.shapes())
    for source, targets in _by_source(origins):
        weight = tensors.weight(source)
        moments = tensors.moments(source) if config.optimizer == "tiled" else {}
        for path in targets:
            p, times = parameters[path], origins[path].times
            fill(p, told_apart(weight.repeat_interleave(times, 0), path, config, seed) if times > 1 else weight)
            if moments and p.requires_grad:
                optimizer.state[p] = {"step": moments["step"].clone()}
                for name in MOMENTS[:2]:
                    optimizer.state[p][name] = torch.zeros_like(p)
                    fill(optimizer.state[p][name], moments[name].repeat_interleave(times, 0))
    return dict(Counter(origin.how for origin in origins.values()))


def _by_source(origins: Mapping[str, Origin]) -> Iterator[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for path, origin in origins.items():
        if origin.source is not None:
            found.setdefault(origin.source, []).append(path)
    yield from found.items()


def told_apart(copies: Tensor, path: str, config: UpcyclingConfig, seed: int) -> Tensor:
    """copies (E, ...) of experts, or of the rows of a router, changed in place as `config` says."""
    if config.redraw and copies.dim() == 3:
        redraw(copies, path, config.redraw, seed)
    if config.weight_noise and copies.dim() > 1:  # one number an expert is a router's state
        std = copies.flatten(1).std(1).view(-1, *[1] * (copies.dim() - 1))
        copies += config.weight_noise * std * torch.randn(copies.shape, generator=generator(seed, f"{path}:noise"))
    return copies


def redraw(copies: Tensor, path: str, share: float, seed: int) -> None:
    """Draw a share of the hidden columns of each of the stacked experts anew, in place: (E, D, F), or (E, F, D) of `down`."""
    group, _, projection = path.rpartition(".")
    dim = 0 if projection == "down" else 1
    which, values = generator(seed, f"{group}:columns"), generator(seed, f"{path}:redraw")
    width = copies.shape[dim + 1]
    for expert in copies:
        columns = torch.randperm(width, generator=which)[: round(share * width)]
        old = expert.index_select(dim, columns)
        new = old.mean() + old.std() * torch.randn(old.shape, generator=values)
        expert.index_copy_(dim, columns, new)
