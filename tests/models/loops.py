"""The decoder as loops over single tokens, written from the papers' equations: the judge of momafuse/models.

    attention  q, k, v = W x; q, k = rope(norm(q)), rope(norm(k)); softmax over the rows seen     (Chameleon, 2405.09818)
    experts    y = sum_e g_e(x) SwiGLU_e(x); expert e takes the C rows of its pool with the largest logits, g = sigmoid
               (MoMa, 2407.21770, section 2.2; expert choice, 2202.09368)
    experts    y = sum_e g_e(x) SwiGLU_e(x) over the experts that a token chooses: the k largest of a softmax or of sigmoids
               (Switch, 2101.03961; GShard, 2006.16668; V-MoE, 2106.05974; a bias on the choice alone, 2408.15664), those
               whose logit is above a threshold (2603.11535), the one that its id is hashed to (2106.04426)
    depth      keep the rows with the largest z = w x; y = x + sigmoid(z) (block(x) - x) for kept rows (2404.02258)
    untied     W, norms or FFN of the token's own modality, one softmax over all rows          (MoT, 2411.04996, Algorithm 1)

What a member is stands in a `Spec`, written by hand; of the model nothing is read but its parameters and its routers' state,
by name.
No line computes two tokens. All in float64 but the angles of rope, which the model has in fp32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from momafuse.config.schema import DepthConfig
from momafuse.data.batch import Batch
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from tests.batches import make_batch


@dataclass(frozen=True)
class RouterSpec:
    """How experts and tokens find each other, and of token choice how many, what gates are, and what is dropped."""

    kind: Literal["expert_choice", "token_choice", "threshold", "hash", "uniform"] = "expert_choice"
    top_k: int = 1
    score: Literal["softmax", "sigmoid"] = "softmax"
    normalise: bool = False
    bias: bool = False
    dropless: bool = True
    priority: bool = False


@dataclass(frozen=True)
class Spec:
    """A member as the papers describe it."""

    experts: dict[str, int]
    untie: tuple[str, ...] = ()
    depth: DepthConfig | None = None
    expert_layers: tuple[int, int] = (1, 0)  # every, start
    modalities: tuple[str, ...] = ("text", "image")
    placement: str = "swin"
    masked: bool = False
    heads: int = 2
    kv_heads: int = 2
    qk_norm: str = "rms"
    per_head: bool = False  # QK-norm has weights of its own for every head
    layers: int = 2
    pool: int = 2
    capacity_factor: float = 1.0
    towers: tuple[str, ...] = ()  # such as text+image: modalities that share what is untied
    router: RouterSpec = RouterSpec()


@dataclass(frozen=True)
class Token:
    row: int
    sequence: int
    position: int
    document: int
    modality: str
    id: int


VOCABULARY = 144  # ids of a distinct batch; a multiple of 2 and of 3 modalities

Rows = dict[Token, Tensor]  # the vector of each token, in order of row


def tokens_of(batch: Batch, modalities: tuple[str, ...]) -> list[Token]:
    sequences, length = batch.shape
    return [
        Token(
            row=b * length + s,
            sequence=b,
            position=int(batch.position[b, s]),
            document=int(batch.document[b, s]),
            modality=modalities[int(batch.modality[b, s])],
            id=int(batch.tokens[b, s]),
        )
        for b in range(sequences)
        for s in range(length)
    ]


@lru_cache(maxsize=512)
def angles(position: int, half: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of position * theta ** (-2 i / K), K = 2 half."""
    angle = torch.tensor([position * 10_000.0 ** (-i / half) for i in range(half)], dtype=torch.float32)
    return angle.cos().double(), angle.sin().double()


def rope(x: Tensor, position: int) -> Tensor:
    """The pair (x[i], x[i + K / 2]) turned by angle i."""
    half = len(x) // 2
    (c, s), a, b = angles(position, half), x[:half], x[half:]
    return torch.cat([a * c - b * s, a * s + b * c])


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def floored(share: float, count: int, among: int = 1) -> int:
    """floor(count * share / among) for the number that `share` was written as."""
    return math.floor(count * Fraction(str(share)) / among)


def best(z: Rows, count: int) -> list[Token]:
    """The tokens with the largest scores; of equal ones the lower row. In order of row."""
    ranked = sorted(z, key=lambda t: (-float(z[t].detach()), t.row))
    return sorted(ranked[:count], key=lambda t: t.row)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def normal(logistic: float, experts: int) -> float:
    """The normal variable of standard deviation 1 / E at the quantile of a standard logistic one."""
    return NormalDist(0, 1 / experts).inv_cdf(1 / (1 + math.exp(-logistic)))


def splitmix64(seed: int) -> int:
    """The first output of the generator splitmix64 from this state, as in Steele, Lea and Flood (2014)."""
    z = (seed + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def hashed(token_id: int, group: str, experts: int) -> int:
    """The expert of an id: splitmix64 of id + 2^32 * letters of the group's name, as a signed number, modulo experts."""
    drawn = splitmix64(token_id + (len(group) << 32))
    return (drawn - 2**64 if drawn >= 2**63 else drawn) % experts


class LoopDecoder:
    def __init__(
        self,
        spec: Spec,
        parameters: dict[str, Tensor],
        noise: Tensor | None = None,
        state: dict[str, Tensor] | None = None,
    ) -> None:
        """noise (layers, T, E), logistic, is added to the logits of experts, which are numbered through the groups; where
        tokens choose, the normal noise of the same quantile. `state`: buffers of the routers by name."""
        self.spec = spec
        self.parameters = parameters
        self.noise = noise
        self.state = state or {}
        self.used: set[str] = set()  # names of the parameters that were asked for

    def weight(self, path: str) -> Tensor:
        self.used.add(path)
        return self.parameters[path]

    def of_token(self, path: str, part: str, token: Token) -> Tensor:
        """The weight at `path`, of the token's modality if `part` is untied."""
        tower = next((tower for tower in self.spec.towers if token.modality in tower.split("+")), token.modality)
        return self.weight(f"{path}.{tower}" if part in self.spec.untie else path)

    def norm(
        self, path: str, token: Token, x: Tensor, kind: str = "rms", part: str = "norms", head: int | None = None
    ) -> Tensor:
        """`head`: the row of the weights that is meant, where there is one for every head."""
        if kind == "none":
            return x

        def own(name: str) -> Tensor:
            weight = self.of_token(f"{path}.{name}", part, token)
            assert weight.dim() == (1 if head is None else 2)
            return weight if head is None else weight[head]

        if kind == "rms":
            return x / torch.sqrt((x * x).mean() + 1e-5) * own("weight")
        centred = x - x.mean()
        return centred / torch.sqrt((centred * centred).mean() + 1e-5) * own("weight") + own("bias")

    def normed_heads(self, path: str, token: Token, parts: list[Tensor]) -> list[Tensor]:
        """The heads of a token after QK-norm and rotation."""
        found = []
        for number, x in enumerate(parts):
            normed = self.norm(path, token, x, self.spec.qk_norm, head=number if self.spec.per_head else None)
            found.append(rope(normed, token.position))
        return found

    def attention(self, path: str, rows: Rows) -> Rows:
        spec = self.spec
        q: dict[Token, list[Tensor]] = {}
        k, v = dict(q), dict(q)
        for t, x in rows.items():
            width = len(x) // spec.heads
            parts = list((self.of_token(f"{path}.qkv.weight", "qkv", t) @ x).split(width))
            assert len(parts) == spec.heads + 2 * spec.kv_heads
            q_raw, k_raw = parts[: spec.heads], parts[spec.heads : spec.heads + spec.kv_heads]
            q[t] = self.normed_heads(f"{path}.q_norm", t, q_raw)
            k[t] = self.normed_heads(f"{path}.k_norm", t, k_raw)
            v[t] = parts[spec.heads + spec.kv_heads :]
        y: Rows = {}
        for t in rows:
            seen = [u for u in rows if u.sequence == t.sequence and u.position <= t.position]
            if spec.masked:
                seen = [u for u in seen if u.document == t.document]
            heads = []
            for h in range(spec.heads):
                of = h * spec.kv_heads // spec.heads  # neighbouring heads share keys and values
                scores = torch.stack([k[u][of] for u in seen]) @ q[t][h] / math.sqrt(len(q[t][h]))
                share = torch.exp(scores - scores.max().detach())
                heads.append(share / share.sum() @ torch.stack([v[u][of] for u in seen]))
            y[t] = self.of_token(f"{path}.out.weight", "out", t) @ torch.cat(heads)
        return y

    def groups(self, layer: int) -> dict[str, int]:
        every, start = self.spec.expert_layers
        return self.spec.experts if layer in range(start, self.spec.layers, every) else {"all": 1}

    def experts(self, path: str, rows: Rows, layer: int) -> Rows:
        y = {t: torch.zeros_like(x) for t, x in rows.items()}
        first = 0
        for name, count in self.groups(layer).items():
            gate, up, down = (self.weight(f"{path}.groups.{name}.{part}") for part in ("gate", "up", "down"))
            mine = [t for t in rows if name in ("all", "shared") or t.modality in name.split("+")]
            if name == "shared":  # that many FFNs of the common width, every one for every token
                wide = gate.shape[2] // count
                for i in range(count):
                    part = slice(i * wide, (i + 1) * wide)
                    for t in mine:
                        hidden = silu(rows[t] @ gate[0, :, part]) * (rows[t] @ up[0, :, part])
                        y[t] = y[t] + hidden @ down[0, part]
                continue
            if count == 1:  # alone: every token, with gate 1
                gates = [dict.fromkeys(mine, torch.ones((), dtype=torch.float64))]
            else:
                z = self.scores(f"{path}.router", name, count, {t: rows[t] for t in mine}, layer, first)
                gates = self.choice(f"{path}.router", name, z)
            for e in range(count):
                for t, g in gates[e].items():
                    hidden = silu(rows[t] @ gate[e]) * (rows[t] @ up[e])
                    y[t] = y[t] + g * (hidden @ down[e])
            first += count
        return y

    def choice(self, path: str, name: str, z: list[Rows]) -> list[Rows]:
        """The gates of the tokens that each expert of a group computes, given the logits of all tokens that it serves."""
        kind, one = self.spec.router.kind, torch.ones((), dtype=torch.float64)
        if kind == "expert_choice":
            return [self.of_expert(mine, len(z)) for mine in z]
        if kind == "token_choice":
            return self.of_tokens(path, name, z)
        if kind == "threshold":
            tau = self.state[f"{path}.state.{name}"].tolist()
            return [{t: sigmoid(x) for t, x in mine.items() if float(x.detach()) > tau[e]} for e, mine in enumerate(z)]
        number = (lambda t: hashed(t.id, name, len(z))) if kind == "hash" else (lambda t: t.position % len(z))
        return [{t: one for t in mine if number(t) == e} for e, mine in enumerate(z)]

    def of_expert(self, z: Rows, count: int) -> Rows:
        """The gates of the tokens that one of `count` experts takes from each pool, given its logits."""
        gates: Rows = {}
        for pool in sorted({t.sequence // self.spec.pool for t in z}):
            rivals = {t: x for t, x in z.items() if t.sequence // self.spec.pool == pool}
            for t in best(rivals, floored(self.spec.capacity_factor, len(rivals), count)):
                gates[t] = sigmoid(z[t])
        return gates

    def of_tokens(self, path: str, name: str, z: list[Rows]) -> list[Rows]:
        """The same where each token chooses. A place is given to first choices before second ones."""
        r, count = self.spec.router, len(z)
        bias = self.state[f"{path}.state.{name}"].tolist() if r.bias else None
        gates: list[Rows] = [{} for _ in z]
        for pool in sorted({t.sequence // self.spec.pool for t in z[0]}):
            mine = [t for t in z[0] if t.sequence // self.spec.pool == pool]
            score: dict[Token, list[Tensor]] = {}
            choices: dict[Token, list[int]] = {}
            for t in mine:
                raw = [z[e][t] for e in range(count)]
                if r.score == "softmax":
                    top = max(float(x.detach()) for x in raw)
                    powers = [torch.exp(x - top) for x in raw]
                    score[t] = [p / sum(powers) for p in powers]
                else:
                    score[t] = [sigmoid(x) for x in raw]
                ranked = raw if bias is None else [s + b for s, b in zip(score[t], bias, strict=True)]
                choices[t] = sorted(range(count), key=lambda e, x=ranked: (-float(x[e].detach()), e))[: r.top_k]
            order = mine
            if r.priority:
                order = sorted(mine, key=lambda t: (-max(float(s.detach()) for s in score[t]), t.row))
            room = [len(mine)] * count
            if not r.dropless:
                room = [min(len(mine), floored(self.spec.capacity_factor, len(mine) * r.top_k, count))] * count
            for nth in range(r.top_k):
                for t in order:
                    e = choices[t][nth]
                    if room[e] == 0:
                        continue
                    room[e] -= 1
                    whole = sum(score[t][other] for other in choices[t]) if r.normalise else 1
                    gates[e][t] = score[t][e] / whole
        return gates

    def scores(self, path: str, name: str, count: int, mine: Rows, layer: int, first: int) -> list[Rows]:
        """The logits of `count` experts, numbered from `first`, for these rows, with noise."""
        if self.spec.router.kind in ("hash", "uniform"):
            return [{t: torch.zeros((), dtype=torch.float64) for t in mine} for _ in range(count)]
        z: list[Rows] = []
        for e in range(count):
            w = self.weight(f"{path}.weight.{name}")[e]
            z.append({t: w @ x for t, x in mine.items()})
            if self.noise is not None:
                drawn = {t: float(self.noise[layer, t.row, first + e]) for t in mine}
                if self.spec.router.kind == "token_choice":
                    drawn = {t: normal(x, count) for t, x in drawn.items()}
                z[e] = {t: x + drawn[t] for t, x in z[e].items()}
        return z

    def block(self, path: str, rows: Rows, layer: int) -> Rows:
        def attention_norm(t: Token, x: Tensor) -> Tensor:
            return self.norm(f"{path}.attention_norm", t, x)

        def ffn_norm(t: Token, x: Tensor) -> Tensor:
            return self.norm(f"{path}.ffn_norm", t, x)

        if self.spec.placement == "swin":
            a = self.attention(f"{path}.attention", rows)
            h = {t: x + attention_norm(t, a[t]) for t, x in rows.items()}
            y = self.experts(f"{path}.experts", h, layer)
            return {t: x + ffn_norm(t, y[t]) for t, x in h.items()}
        a = self.attention(f"{path}.attention", {t: attention_norm(t, x) for t, x in rows.items()})
        h = {t: x + a[t] for t, x in rows.items()}
        y = self.experts(f"{path}.experts", {t: ffn_norm(t, x) for t, x in h.items()}, layer)
        return {t: x + y[t] for t, x in h.items()}

    def kept(self, path: str, rows: Rows) -> Rows:
        """The gates of the tokens that a depth router keeps."""
        depth = self.spec.depth
        assert depth is not None
        w = self.weight(f"{path}.depth_router.weight")[0]
        z = {t: w @ x for t, x in rows.items()}
        rivals: dict[tuple[int, str], Rows] = {}
        for t in rows:
            key = (t.sequence, t.modality) if depth.per_modality else (t.sequence // self.spec.pool, "")
            rivals.setdefault(key, {})[t] = z[t]
        taken = [t for them in rivals.values() for t in best(them, floored(depth.capacity, len(them)))]
        return {t: sigmoid(z[t]) for t in sorted(taken, key=lambda t: t.row)}

    def layer(self, layer: int, rows: Rows) -> Rows:
        path, depth = f"blocks.{layer}", self.spec.depth
        if depth is None or layer not in range(depth.start, self.spec.layers, depth.every):
            return self.block(path, rows, layer)
        gates = self.kept(path, rows)
        y = self.block(path, {t: rows[t] for t in gates}, layer)
        return {t: x + gates[t] * (y[t] - x) if t in gates else x for t, x in rows.items()}

    def hidden(self, batch: Batch) -> Rows:
        """The vector of each token before the head."""
        ids = batch.tokens.flatten().tolist()
        table = self.weight("embedding.weight")
        rows = {t: table[ids[t.row]] for t in tokens_of(batch, self.spec.modalities)}
        for layer in range(self.spec.layers):
            rows = self.layer(layer, rows)
        return {t: self.norm("norm", t, x, part="never untied") for t, x in rows.items()}

    def logits(self, batch: Batch) -> Tensor:
        """(T, V)"""
        head = self.weight("head.weight")
        return torch.stack([head @ x for x in self.hidden(batch).values()])


def distinct_batch(sequences: int, budget: tuple[int, ...], seed: int = 0) -> Batch:
    """A batch where no id stands twice, of `VOCABULARY` ids: like tokens that see only themselves tie, and rounding decides."""
    batch, m = make_batch(sequences, budget, seed=seed), len(budget)
    numbers = torch.randperm(VOCABULARY // m, generator=torch.Generator().manual_seed(seed))[: batch.tokens.numel()]
    return replace(batch, tokens=numbers.view(batch.shape) * m + batch.modality)


def shaken(model: Transformer) -> Transformer:
    """The model with initial weights and noise on all of them, so that no norm is 1, no bias 0 and no gate one half; biases and
    thresholds of routers are drawn, too."""
    initialise(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    for router in model.routers():
        if router is not None and router.state is not None:
            middle = 2.0 if router.state.first else 0.0  # of thresholds: rows find one expert or two, some find none
            router.state.write(middle + 0.5 * torch.randn(router.n_routed, generator=generator))
    return model


def assert_agrees(model: Transformer, spec: Spec, batch: Batch, noise: Tensor | None = None) -> set[str]:
    """Logits and the gradient of every parameter within 1e-10. Returns the names of the parameters that the loops used.

    A parameter that took no part has the gradient 0 here, whether autograd says 0 or None.
    """
    parameters = dict(model.named_parameters())
    loops = LoopDecoder(spec, parameters, noise, dict(model.named_buffers()))
    logits = model(batch, lambda hidden, head: hidden @ head.t(), noise)[0]
    expected = loops.logits(batch)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
    leaves = list(parameters.values())
    mine, wanted = (torch.autograd.grad(y, leaves, direction, materialize_grads=True) for y in (logits, expected))
    for name, a, b in zip(parameters, mine, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    return loops.used
