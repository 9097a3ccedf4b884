"""The kinds of routers by name, without torch, so that configs are checked before anything heavy is imported.

A kind of another package: `@register_router("nearest")` above a subclass of `routing.routers.Router`, in a module that
`plugins=` names; then `router.kind=nearest` (docs/CONTRIBUTING.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

C = TypeVar("C", bound=type[Any])


@dataclass(frozen=True)
class Kind:
    made_by: type[Any] | str  # the class, or `module:class`
    needs_auxiliary: bool  # what an expert takes hangs on later rows; choosing causally takes auxiliary routers
    scores: bool = True  # it has logits: losses of routers can be computed
    per_row: Callable[[Any], float] = lambda config: 1.0  # RouterConfig -> experts of a row, on average

    def load(self) -> type[Any]:
        """The class, a subclass of `routing.routers.Router`."""
        if not isinstance(self.made_by, str):
            return self.made_by
        module, _, name = self.made_by.partition(":")
        found: type[Any] = getattr(import_module(module), name)
        return found


EXPERT_CHOICE, TOKEN_CHOICE, THRESHOLD = "expert_choice", "token_choice", "threshold"
KINDS: dict[str, Kind] = {
    EXPERT_CHOICE: Kind("momafuse.routing.expert_choice:ExpertChoice", True, per_row=lambda c: float(c.capacity_factor)),
    TOKEN_CHOICE: Kind("momafuse.routing.token_choice:TokenChoice", False, per_row=lambda c: float(c.top_k)),
    THRESHOLD: Kind("momafuse.routing.threshold:Threshold", False, per_row=lambda c: float(c.capacity_factor)),
    "hash": Kind("momafuse.routing.assigned:Hash", False, scores=False),
    "uniform": Kind("momafuse.routing.assigned:Uniform", False, scores=False),
}


def register_router(
    name: str, *, needs_auxiliary: bool = False, scores: bool = True, per_row: Callable[[Any], float] = lambda config: 1.0
) -> Callable[[C], C]:
    """Makes a subclass of `routing.routers.Router` known as `router.kind=name`; the rest as in `Kind`. Raises ValueError for a
    name that is taken."""
    if name in KINDS:
        raise ValueError(f"register_router: {name} is taken")

    def register(made_by: C) -> C:
        KINDS[name] = Kind(made_by, needs_auxiliary, scores, per_row)
        return made_by

    return register
