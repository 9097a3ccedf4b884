"""Documents of a source -> ids: runs the codec of each modality and the text tokenizer over whole chunks.

Training documents come in as many variants as asked, of which codecs make what they can (vision/codec.py); validation
documents have variant 0 only. Reads and writes no files but those that a source gives by path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from momafuse.data.codecs import Codec, Codes, load_codecs, vocabulary_of
from momafuse.data.duplicates import Marks
from momafuse.data.filters import unwanted
from momafuse.data.items import Encoded, ItemEncoder, versions
from momafuse.data.sources import Item, Raw
from momafuse.data.writer import Group, Part
from momafuse.tokens.document import EncodedDocument, encode_document
from momafuse.tokens.text import TextTokenizer, read_utf8
from momafuse.tokens.vocabulary import TEXT


class Encoder:
    """The tokenizers of all modalities and the vocabulary that holds their ids; `threads` encode and decode."""

    def __init__(
        self, text: TextTokenizer, codecs: Mapping[str, Codec], device: str = "cpu", threads: int | None = None
    ) -> None:
        self.text = text
        self.codecs = codecs
        self.device = device
        self.threads = threads or torch.get_num_threads()
        self.vocabulary = vocabulary_of(text, codecs)

    @classmethod
    def load(cls, config: Mapping[str, str], threads: int | None = None) -> Encoder:
        """On the GPU where there is one. Raises UserError for a tokenizer that is missing or damaged."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(TextTokenizer.load(config[TEXT]), load_codecs(config, device), device, threads)

    @property
    def fingerprints(self) -> dict[str, str]:
        return {TEXT: self.text.fingerprint} | {name: codec.fingerprint for name, codec in self.codecs.items()}

    def encode(
        self, items: Sequence[Item], variants: int, filters: Mapping[str, int | float] | None = None, *, marked: bool = False
    ) -> Part:
        """The part of these items: `variants` training groups and the validation group. What `filters` (data/filters.py)
        leave out is counted; `marked`: with the marks that tell duplicates."""
        read, left_out, encoded = len(items), Counter[str](), Encoded()
        if filters:
            reasons = [unwanted(item, filters) for item in items]
            items = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
            left_out = Counter(reason for reason in reasons if reason is not None)
        items = [_with_text(n, item, encoded.rejects) for n, item in enumerate(items)]
        for modality, codec in self.codecs.items():
            ItemEncoder(codec, items, variants, encoded, self.threads, self.device, marked).run(modality)
        texts = iter(self._texts(items))
        groups: list[list[EncodedDocument]] = [[] for _ in range(variants + 1)]
        for n, item in enumerate(items):
            pieces = {place: next(texts) for place, s in enumerate(item.segments) if isinstance(s, str)}
            if n not in encoded.rejects and (reason := self._unknown(item)):
                encoded.rejects[n] = reason
            if n in encoded.rejects:
                continue
            for v in versions(item, variants):
                segments = [
                    (s.modality, encoded.codes[n, v, place]) if isinstance(s, Raw) else (TEXT, pieces[place])
                    for place, s in enumerate(item.segments)
                ]
                key = f"{item.key}#{v}" if v else item.key
                group = groups[v if item.split == "train" else variants]
                group.append(encode_document(key, segments, self.vocabulary, item.given))
        built = tuple(Group.build(documents, self.vocabulary) for documents in groups)
        rejects = tuple((items[n].key, reason) for n, reason in sorted(encoded.rejects.items()))
        marks = self._marks(items, encoded) if marked else None
        return Part(read, built, rejects, dict(sorted(left_out.items())), marks)

    def _marks(self, items: Sequence[Item], encoded: Encoded) -> Marks:
        used = [n for n in range(len(items)) if n not in encoded.rejects]
        return Marks.build([items[n] for n in used], [encoded.look(n, items[n]) for n in used])

    def _unknown(self, item: Item) -> str | None:
        missing = {s.modality for s in item.segments if isinstance(s, Raw)} - self.codecs.keys()
        return f"no tokenizer.{min(missing)} for it" if missing else None

    def _texts(self, items: Sequence[Item]) -> list[Codes]:
        """Ids of all text segments in order."""
        first = self.vocabulary.modality(TEXT).first
        pieces = self.text.encode([s for item in items for s in item.segments if isinstance(s, str)], self.threads)
        return [p + first for p in pieces]


def _with_text(n: int, item: Item, rejects: dict[int, str]) -> Item:
    """The item with the texts that it has in files; one that cannot be read goes to `rejects`."""
    if not any(isinstance(s, Raw) and s.modality == TEXT for s in item.segments):
        return item
    try:
        read = (read_utf8(s.read()) if isinstance(s, Raw) and s.modality == TEXT else s for s in item.segments)
        return replace(item, segments=tuple(read))
    except (OSError, ValueError) as error:
        rejects[n] = " ".join(str(error).split())
        return item
