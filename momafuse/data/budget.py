"""How many tokens of each modality every training sequence holds: the modality budget.

    S_image = image_share * S, a whole number of pictures;   S_text = S - S_image

`begin_image` and `end_image` are text, so a picture costs at least two text tokens as well. Everything here is host
arithmetic on totals, done before the first step. Does not choose documents (packing.py).
"""

from __future__ import annotations

from momafuse.config.schema import DataConfig
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary

FRAME = 2  # text tokens that a picture cannot do without: begin_image, end_image
TOLERANCE = 1e-5  # shares are written with six digits


def modality_budget(data: DataConfig, vocabulary: Vocabulary, experts: dict[str, int]) -> tuple[int, ...]:
    """Tokens of each modality (in the vocabulary's order) in every sequence; the sum is `data.sequence_length`.

    `experts` are the model's expert counts, read where `data.image_share=experts`. UserError with the nearest valid
    shares where the image tokens are no whole number of pictures, or leave no text to frame them with.
    """
    length, block = data.sequence_length, vocabulary.modality("image").block
    if length < 1:
        raise UserError(f"data.sequence_length={length}: a sequence needs at least one token")
    share, source = _share(data, experts)
    pictures = round(share * length / block)
    if abs(share - pictures * block / length) > TOLERANCE or not 0 <= pictures <= most_pictures(length, block, FRAME):
        raise UserError(
            f"data.image_share={source}: {share * length:g} of data.sequence_length={length} tokens are no whole number "
            f"of pictures ({block} tokens each, and {FRAME} of text beside them); {_nearest(share, length, block)}"
        )
    image = pictures * block
    budget = {"text": length - image, "image": image}
    return tuple(budget.get(name, 0) for name in vocabulary.names)


def most_pictures(length: int, block: int, text_per_picture: float) -> int:
    """The most pictures of `block` tokens that a sequence holds if each brings that much text; one token is spared."""
    return max(0, int((length - 1) / (block + text_per_picture)))


def check_text(text: int, image: int, block: int, text_per_picture: float, fillable: bool) -> None:
    """Raise UserError where a corpus cannot meet the budget (`text` and `image` tokens a sequence).

    `text_per_picture` is the mean text that comes with a picture, `fillable` says that there is text-only data.
    """
    length, pictures = text + image, image // block if image else 0
    needed = pictures * text_per_picture
    if needed > text:
        best = most_pictures(length, block, text_per_picture)
        raise UserError(
            f"data.image_share={image / length:g}: {pictures} pictures bring {needed:.1f} tokens of text on average, but "
            f"a sequence has {text}; the largest valid share for this corpus is {best * block / length:g}"
        )
    if not fillable and needed < text:
        raise UserError(
            f"data.image_share={image / length:g}: no text to fill with, {pictures} pictures bring {needed:.1f} of "
            f"{text} text tokens; add a text-only source to data.sources with a weight above 0"
        )


def _share(data: DataConfig, experts: dict[str, int]) -> tuple[float, str]:
    """The share as a number, and how the user wrote it."""
    if data.image_share != "experts":
        return float(data.image_share), f"{data.image_share}"
    text, image = experts.get("text", 0), experts.get("image", 0)
    if "all" in experts or text + image == 0:
        counts = ", ".join(f"{name}: {count}" for name, count in experts.items())
        raise UserError(
            f"data.image_share=experts: the experts ({counts}) are not split into text and image; "
            "give a number, such as data.image_share=0.5, or a model with experts.text and experts.image"
        )
    return image / (text + image), f"experts (text: {text}, image: {image})"


def _nearest(share: float, length: int, block: int) -> str:
    most = most_pictures(length, block, FRAME)
    if most == 0:
        return f"raise data.sequence_length to at least {block + FRAME + 1}"
    if most == 1:
        return f"the only valid share is {block / length:g}"
    below = min(max(int(share * length / block), 1), most - 1)
    return f"the nearest valid shares are {below * block / length:g} and {(below + 1) * block / length:g}"
