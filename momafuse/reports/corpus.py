"""What a corpus holds, as a tree for the console. Reads the manifest only."""

from __future__ import annotations

from typing import Any

from rich.tree import Tree

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
