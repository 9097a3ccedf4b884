"""A prompt as a person types it, to the ids of a document's beginning.

    a red apple:                      text
    <image:cat.png> what is this?     an item of a modality by the path of its file; `>` ends the path

What stands between angle brackets is text unless it names a modality that there is a codec for. Ids begin with `bos`, and no
`eos` ends them: what follows goes on with the document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from momafuse.data.codecs import Codec, modalities_with_codec
from momafuse.errors import UserError
from momafuse.tokens.document import encode_document
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary

_ITEM = re.compile(r"<(\w+):([^>\n]+)>")


def segments_of(prompt: str, codecs: Mapping[str, Codec]) -> list[tuple[str, Any]]:
    """(modality, text or item) in order. Raises UserError for a file that cannot be read, and for a modality not of the run."""
    known = modalities_with_codec()
    found: list[tuple[str, Any]] = []
    at = 0
    for match in _ITEM.finditer(prompt):
        name, path = match.groups()
        if name not in known:
            continue
        found.append((TEXT, prompt[at : match.start()]))
        at = match.end()
        if name not in codecs:
            raise UserError(f"prompt={_short(prompt)}: this run knows no {name}, only {', '.join((TEXT, *codecs))}")
        try:
            found.append((name, codecs[name].read(Path(path).expanduser().read_bytes())))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(f"prompt={_short(prompt)}: {path}: {reason}; name a file of {name}") from error
    found.append((TEXT, prompt[at:]))
    return [segment for segment in found if segment[0] != TEXT or segment[1]]


def ids_of(prompt: str, text: TextTokenizer, codecs: Mapping[str, Codec], vocabulary: Vocabulary) -> list[int]:
    """Raises UserError as `segments_of`."""
    return ids_of_segments(segments_of(prompt, codecs), text, codecs, vocabulary)


def ids_of_segments(
    segments: Sequence[tuple[str, Any]], text: TextTokenizer, codecs: Mapping[str, Codec], vocabulary: Vocabulary
) -> list[int]:
    """The same of what is read already: (modality, text or item) in order."""
    encoded = []
    for name, value in segments:
        values = text.encode([value])[0] + vocabulary.modality(TEXT).first if name == TEXT else codecs[name].encode([value])[0]
        encoded.append((name, values))
    given = range(len(encoded))  # keeps the order
    ids: list[int] = encode_document("prompt", encoded, vocabulary, given).ids[:-1].tolist()
    return ids


def _short(prompt: str, most: int = 60) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= most else f"{line[:most]}.."
