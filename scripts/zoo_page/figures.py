"""One function for each kind of layer, which returns its card; docs/zoo.md says in words what is drawn.

Which expert takes which token is made up, such that some are taken by none, some by one and some by two.
"""

from __future__ import annotations

from collections.abc import Callable

from zoo_page.sheet import BOX, EDGE, HALF, INK, LANES, LEFT, PALE, RIGHT, STREAM, TINT, WHOLE, Place, Places, Sheet, of, spread

LABEL, ROW, HEADER, FOOTER = 50.0, 24.0, 82.0, 28.0  # of a group that chooses: room for "FFN 1", heights
CHOICES = {  # of each expert, the columns it takes
    "text": [(0, 2), (2, 5), (3, 7), (5, 6)],
    "image": [(1, 4), (0, 4), (5, 6), (2, 6)],
    "all": [(0, 3), (1, 12), (5, 12), (4, 8), (8, 11), (6, 9), (9, 14), (2, 13)],
}
KEPT = [1, 4, 9, 13]  # a quarter of the text, a quarter of the images
BY_MODALITY = spread(of("text"), HALF["text"]) | spread(of("image"), HALF["image"])
CROSSING = 50.0  # height of arrows that cross


def dense() -> Sheet:
    s = begin("dense")
    s.move(LANES, LANES)
    s.box("all", "one FFN for every token", "y = h + norm(FFN(h))")
    s.move(LANES, LANES)
    s.tokens()
    return s


def moe_1t1i() -> Sheet:
    s = begin("moe_1t1i, mot_ffn_only")
    s.move(LANES, BY_MODALITY, CROSSING)
    s.box_each("FFN of {} tokens", "y = h + norm(FFN(h))")
    s.move(BY_MODALITY, LANES, CROSSING)
    s.tokens()
    return s


def moma_4t4i() -> Sheet:
    s = begin("moma_4t4i (other counts alike)")
    at = columns("text") | columns("image")
    s.move(LANES, at, CROSSING)
    times = choice(s, "text") | choice(s, "image")
    s.y += height("text")
    s.move(at, LANES, CROSSING, times)
    return end(s)


def moe_8x() -> Sheet:
    s = begin("moe_8x")
    s.move(LANES, columns("all"))
    times = choice(s, "all")
    s.y += height("all")
    s.move(columns("all"), LANES, times=times)
    return end(s)


def mod_dense() -> Sheet:
    def ffn(s: Sheet, block: Place) -> None:
        kept = spread(KEPT, block)
        s.move(kept, kept)
        s.box("all", "one FFN for every token", "block(x) = h + norm(FFN(h))", inset(block))
        s.move(kept, kept)

    return depth("mod_dense", ffn, 190)


def mod_moma_4t4i() -> Sheet:
    def ffn(s: Sheet, block: Place) -> None:
        kept, (x, w) = spread(KEPT, block), inset(block)
        places = {"text": (x, w / 2 - 6), "image": (x + w / 2 + 6, w / 2 - 6)}
        at: Places = {}
        for kind, place in places.items():
            at |= spread([i for i in KEPT if STREAM[i] == kind], place)
        s.move(kept, at, 40)
        s.boxes(*((kind, place, f"4 {kind} FFNs", "choose among these") for kind, place in places.items()))
        s.move(at, kept, 40)

    return depth("mod_moma_4t4i", ffn, 218)


def mot() -> Sheet:
    s = untied("mot")
    s.move(BY_MODALITY, BY_MODALITY)
    s.box_each("FFN, norm of {} tokens", "y = h + norm(FFN(h))")
    s.move(BY_MODALITY, LANES, CROSSING)
    s.tokens()
    return s


def mot_text_moe4() -> Sheet:
    s = untied("mot_text_moe4")
    at = columns("text") | {i: BY_MODALITY[i] for i in of("image")}
    s.move(BY_MODALITY, at)
    times = choice(s, "text") | dict.fromkeys(of("image"), 1)
    s.boxes(("image", HALF["image"], "one FFN of image tokens", "takes them all: no router, no gate"), h=height("text"))
    s.move(at, LANES, CROSSING, times)
    return end(s, "; the norm is of its modality")


def groups() -> Sheet:
    s = begin("experts.shared=1 width_share.image=0.3333")
    parts: dict[str, tuple[Place, str, str, str]] = {
        "text": ((LEFT, 236.0), "4 text experts", "text tokens", "sum of gate * FFN"),
        "image": ((LEFT + 252, 136.0), "4 image experts", "image tokens", "sum of gate * FFN"),
        "all": ((RIGHT - 228, 228.0), "1 shared expert", "every token", "FFN, no gate"),
    }
    for kind, ((x, w), title, enters, leaves) in parts.items():
        middle, wide = x + w / 2, 190 / (3 if kind == "image" else 1)
        s.block_arrow(middle, s.y + 2, kind, enters)
        s.frame(x, s.y + 40, w, 168, TINT[kind], EDGE[kind])
        s.lines(middle, s.y + 57, title)
        for e in range(1 if kind == "all" else 4):
            s.frame(middle - wide / 2, s.y + 76 + 32 * e, wide, 24, "white", EDGE[kind], radius=3)
            s.text(middle, s.y + 88 + 32 * e, "FFN" if kind == "all" else f"FFN {e + 1}")
        s.block_arrow(middle, s.y + 210, kind, leaves)
    s.y += 250
    s.box("none", "the sum of both, back in order", "y = h + norm(chosen + shared)")
    s.move(LANES, LANES)
    s.tokens()
    return s


FIGURES: dict[str, Callable[[], Sheet]] = {
    f.__name__: f for f in (dense, moe_1t1i, moma_4t4i, moe_8x, mod_dense, mod_moma_4t4i, mot, mot_text_moe4, groups)
}


def begin(title: str) -> Sheet:
    """The tokens, and the attention that is the same in most layers."""
    s = Sheet(title)
    s.tokens()
    s.move(LANES, LANES)
    s.box("all", "causal attention over all tokens", "h = x + norm(attention(x))")
    return s


def end(s: Sheet, note: str = "") -> Sheet:
    """The sum over the experts that took a token, and the tokens."""
    below = f"y = h + norm(sum of gate * FFN(h)); taken 0x: y = h{note}"
    s.box("none", "each token: the sum over the FFNs that took it, back in order", below)
    s.move(LANES, LANES)
    s.tokens()
    return s


def columns(kind: str) -> Places:
    """Where `choice` has the columns of its tokens."""
    x, w = HALF.get(kind, WHOLE)
    return spread(of(kind), (x + LABEL, w - LABEL - 6))


def height(kind: str) -> float:
    return HEADER + ROW * len(CHOICES[kind]) + FOOTER


def choice(s: Sheet, kind: str) -> dict[int, int]:
    """A group that chooses, at `y`: a line for each expert, a column for each token. Returns how often each is taken."""
    (x, w), chosen, numbers, at = HALF.get(kind, WHOLE), CHOICES[kind], of(kind), columns(kind)
    s.frame(x, s.y, w, height(kind), TINT[kind], EDGE[kind])
    whose = "one router for every token" if kind == "all" else f"router of {kind} tokens"
    count = len(numbers) // len(chosen)
    s.lines(x + w / 2, s.y + 27, f"{whose}: z = W h", f"each FFN takes its {count} best of {len(numbers)}, gate = sigmoid(z)")
    for i in numbers:
        s.token(at[i], s.y + 65, STREAM[i], str(i + 1), size=20)
    for e, taken in enumerate(chosen):
        y = s.y + HEADER + ROW * (e + 0.5)
        s.text(x + 8, y, f"FFN {e + 1}", align="left")
        for n, i in enumerate(numbers):
            s.token(at[i], y, STREAM[i], size=18, taken=n in taken)
    times = {i: sum(n in taken for taken in chosen) for n, i in enumerate(numbers)}
    y = s.y + height(kind) - FOOTER + 13
    s.text(x + 8, y, "taken", align="left")
    for i, n in times.items():
        s.text(at[i], y, f"{n}x", bold=n > 1)
    return times


def untied(title: str) -> Sheet:
    """The attention of a mixture of transformers: projections of each modality, one softmax."""
    s = Sheet(title)
    s.tokens()
    s.move(LANES, BY_MODALITY, CROSSING)
    s.box_each("W_q, W_k, W_v of {} tokens", "q and k norms of {} tokens")
    s.move(BY_MODALITY, BY_MODALITY)
    s.box("none", "one causal attention", "softmax of each q over the k up to its own place, text and image alike")
    s.move(BY_MODALITY, BY_MODALITY)
    s.box_each("W_out, norm of {} tokens", "h = x + norm(W_out a)")
    return s


def inset(place: Place) -> Place:
    return place[0] + 12, place[1] - 24


def depth(title: str, ffn: Callable[[Sheet, Place], None], inside: float) -> Sheet:
    """Kept tokens through the block on the left, which is `inside` high, the others past it on the right."""
    s = Sheet(title)
    block, beside = (LEFT, 330.0), (LEFT + 352, 280.0)
    kept = spread(KEPT, block)
    s.tokens(marked=KEPT)
    s.move(LANES, LANES)
    s.box(
        "all", "depth router: z = w x", "keeps the quarter of the text and the quarter of the image tokens with the largest z"
    )
    router, top, bottom = s.y, s.y + 56, s.y + 56 + inside
    s.frame(block[0], top, block[1], inside, "white", INK)
    for i, x in spread([i for i in LANES if i not in KEPT], beside).items():
        s.arrow((LANES[i], router), (x, top), (x, bottom), (LANES[i], bottom + 56), kind=STREAM[i])
    s.frame(beside[0] + 50, (top + bottom - BOX) / 2, beside[1] - 100, BOX, "white", PALE)
    s.lines(beside[0] + beside[1] / 2, (top + bottom) / 2, "passed by: y = x", "no keys, no values here")
    s.move(LANES, kept, 68)
    s.box("all", "attention among kept tokens", "h = x + norm(attention(x))", inset(block))
    ffn(s, block)
    s.text(block[0] + block[1] / 2, s.y + 14, "y = x + sigmoid(z) * (block(x) - x)")
    s.y = bottom
    s.move(kept, LANES, 56)
    s.tokens(marked=KEPT)
    layers(s)
    return s


def layers(s: Sheet) -> None:
    """Which share of their tokens the first layers compute."""
    s.y += 24
    s.text(LEFT, s.y, "share of its tokens that a layer computes:", align="left")
    for n, x in enumerate((355.0, 441.0, 527.0, 613.0)):
        s.text(x, s.y, f"layer {n}" if n == 0 else str(n), align="right")
        s.frame(x + 6, s.y - 8, 44, 16, "white", EDGE["all"], radius=2)
        s.frame(x + 6, s.y - 8, 44 if n % 2 else 11, 16, EDGE["all"], EDGE["all"], radius=2)
    s.y += 8
