"""What a corpus holds, as a tree for the console, by its manifest; and how well its tokenizers fit, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.tree import Tree

from momafuse.config.schema import Config
from momafuse.data.fit import Fit
from momafuse.data.layout import source_info
from momafuse.tokens.vocabulary import Vocabulary


def corpus_tree(manifest: dict[str, Any]) -> Tree:
    """Splits with their sources, the tokenizers with their fingerprints, and the number of rejected documents."""
    tree = Tree(f"corpus {manifest['name']}, {manifest['vocabulary']['size']:,} ids")
    vocabulary = Vocabulary.from_dict(manifest["vocabulary"])
    for split, facts in manifest["splits"].items():
        branch = tree.add(f"{split}: {facts['documents']:,} documents, {facts['tokens']:,} tokens")
        for source in (source_info(entry, vocabulary) for entry in facts["sources"]):
            made_of = manifest["sources"][source.name]
            variants = f" ({made_of['variants']} of each)" if split == "train" and not source.plain else ""
            named = zip(vocabulary.names, source.tokens, source.items, strict=True)
            tokens = " + ".join(f"{n:,} {name}" + (f" (in {items:,} items)" if items else "") for name, n, items in named)
            content = made_of["fingerprint"][:8]
            branch.add(f"{source.name}: {source.documents:,} documents{variants}, {tokens} tokens, content {content}")
    tokenizers = tree.add(f"tokenizers (codecs ran on {manifest['encoder_device']})")
    for kind, made_with in manifest["tokenizers"].items():
        tokenizers.add(f"{kind}: {made_with['name']} {made_with['fingerprint'][:8]}")
    if manifest["rejects"]:
        tree.add(f"{manifest['rejects']:,} documents rejected: see rejects.jsonl")
    return tree


def fit_lines(fit: Fit, config: Config, sheet: Path) -> list[str]:
    """How much a tokenizer keeps of a source's items, and the remedy where it is too little."""
    key = f"tokenizer.{fit.modality}={config.tokenizer[fit.modality]}"
    found = f"{fit.values.mean():.1f} {fit.unit}, {fit.values.min():.1f} of the worst"
    lines = [f"{fit.source}: {key} keeps {found}, of {len(fit.values)} items; the worst: {sheet}"]
    if fit.poor:
        remedy = "train one on yours: docs/image_tokenizer.md" if fit.modality == "image" else "train one on yours"
        lines.append(f"  that is little: no model can draw what its tokenizer loses; {remedy}")
    return lines
