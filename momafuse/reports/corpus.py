"""What a corpus holds, as a tree for the console. Reads the manifest only."""

from __future__ import annotations

from typing import Any

from rich.tree import Tree


def corpus_tree(manifest: dict[str, Any]) -> Tree:
    """Splits with their sources, the tokenizers with their fingerprints, and the number of rejected documents."""
    tree = Tree(f"corpus {manifest['name']}, {manifest['vocabulary']['size']:,} ids")
    for split, facts in manifest["splits"].items():
        branch = tree.add(f"{split}: {facts['documents']:,} documents, {facts['tokens']:,} tokens")
        for source in facts["sources"]:
            made_of = manifest["sources"][source["name"]]
            variants = f" ({made_of['variants']} of each)" if split == "train" and source["pictures"] else ""
            branch.add(
                f"{source['name']}: {source['documents']:,} documents{variants}, {source['pictures']:,} pictures, "
                f"{source['text_tokens']:,} text + {source['image_tokens']:,} image tokens, "
                f"content {made_of['fingerprint'][:8]}"
            )
    tokenizers = tree.add(f"tokenizers (pictures encoded on {manifest['encoder_device']})")
    for kind, made_with in manifest["tokenizers"].items():
        tokenizers.add(f"{kind}: {made_with['name']} {made_with['fingerprint'][:8]}")
    if manifest["rejects"]:
        tree.add(f"{manifest['rejects']:,} documents rejected: see rejects.jsonl")
    return tree
