"""Rules about routers: what a kind can do and what it needs, and which losses it can have. See validate.py."""

from __future__ import annotations

from momafuse.config.broken import fail
from momafuse.config.nearest import did_you_mean
from momafuse.config.schema import Config
from momafuse.routing.kinds import EXPERT_CHOICE, KINDS, TOKEN_CHOICE

EVERY_ROW = ("hash", "uniform")  # kinds that leave no row without an expert


def check_router(config: Config) -> None:
    """Raises UserError for the first rule that `config` breaks."""
    r, kind = config.router, config.router.kind
    check_kind(kind)
    factor = r.capacity_factor
    for name, count in config.routed.items():
        if factor > count:
            problem = f"an expert of `{name}` would take more tokens than there are; at most {count} (its experts)"
            fail("router.capacity_factor", factor, problem)
        served = factor == count if kind == EXPERT_CHOICE else kind in EVERY_ROW or (kind == TOKEN_CHOICE and r.dropless)
        if not config.model.norm_eps and not served:
            or_all = f", or router.capacity_factor={count}" if kind == EXPERT_CHOICE else ""
            problem = f"a row that no expert takes would be divided by 0; write 1e-5{or_all}"
            fail("model.norm_eps", config.model.norm_eps, problem)

    _kind(config)
    _router_losses(config)


def check_kind(kind: str) -> None:
    """Raises UserError where nobody registered it."""
    if kind not in KINDS:
        names = f"{did_you_mean(kind, KINDS)} ({', '.join(KINDS)})"
        fail("router.kind", kind, f"no such kind of router{names}; one of another package needs plugins=[its module]")


def _kind(config: Config) -> None:
    """What a kind of router can do, and what it needs."""
    r, kind = config.router, config.router.kind
    token = kind == TOKEN_CHOICE
    for name, count in config.routed.items():
        if token and r.top_k > count:
            fail("router.top_k", r.top_k, f"a row cannot go to more experts than `{name}` has; at most {count}")
    if r.normalise and r.top_k == 1 and token:
        problem = "with router.top_k=1 every gate would be 1, and the router would learn nothing from the loss; write false"
        fail("router.normalise", "true", problem)
    for key, set_, default in (
        ("top_k", r.top_k != 1, 1),
        ("dropless", not r.dropless, "true"),
        ("bias_rate", r.bias_rate > 0, 0),
    ):
        if set_ and not token:
            fail(f"router.{key}", str(getattr(r, key)).lower(), f"is for router.kind=token_choice, not {kind}; write {default}")
    if r.priority and r.dropless:
        fail("router.priority", "true", "orders what a capacity drops; add router.dropless=false")
    if not 0 <= r.decay < 1:
        fail("router.decay", r.decay, "must be at least 0 and below 1, e.g. 0.99")
    if kind != EXPERT_CHOICE and config.routed and config.trainer.backend == "grouped_mm":
        problem = f"only the device knows how many rows an expert of router.kind={kind} takes; write trainer.backend=auto"
        fail("trainer.backend", "grouped_mm", problem)


def _router_losses(config: Config) -> None:
    r, loss = config.router, config.router.loss
    if loss.any and not KINDS[r.kind].scores:
        fail("router.kind", r.kind, "has no scores, so it has no losses; set the weights of router.loss to 0")
    if loss.load and (r.kind != TOKEN_CHOICE or not config.noisy):
        problem = "is of how noise would choose; add router.kind=token_choice router.noise=true, or write 0"
        fail("router.loss.load", loss.load, problem)
    by_modality = {"local_entropy": loss.local_entropy, "global_entropy": loss.global_entropy}
    for key, weights in (by_modality | {"least_experts": loss.least_experts}).items():
        for name, value in weights.items():
            if name not in config.modalities:
                fail(f"router.loss.{key}.{name}", value, f"no such modality{did_you_mean(name, config.modalities)}")
            if value < 0 or (key == "least_experts" and value < 1):
                fail(f"router.loss.{key}.{name}", value, "must be at least " + ("1" if key == "least_experts" else "0"))
