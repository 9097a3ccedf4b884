"""A user's conversations in the common chat form: .jsonl or .parquet files, a row is a conversation, column `messages`.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "more/p1.png"},
                                               {"type": "text", "text": "What is it?"}]},
                  {"role": "assistant", "content": "A red ball."}]}

Roles are system, user and assistant. Turns of the assistant are answers; the others are given, so that with
objective.answers_only=true they are no targets (Chameleon's fine-tuning, arXiv 2405.09818). The vocabulary has no token
for the end of a turn: a line break ends every turn but the last, which the document's `eos` ends. It belongs to the turn
that it ends, so answers learn to end; roles are not written out, and line breaks within a turn stay as they are.

Pictures' paths begin at the folder (of a single file, at the one that it lies in); one that cannot be read is rejected
when it is encoded. A row of another form stops the run with its number. Pictures outside of the folder, or beside a
single file, are not part of the fingerprint.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Source, folder_fingerprint, register, user_folder
from momafuse.data.sources.streams import LINES, PARQUET, Segments, all_files, read_rows, row_files, unicode_text

_ANSWERS = {"system": False, "user": False, "assistant": True}
Part = tuple[str, str]  # "text" and the text, or "image" and its path


@register("conversations")
def conversations(config: SourceConfig) -> Source:
    """Conversations in the order of the paths. Raises UserError where `path` holds none."""
    path, paths = user_folder(config), row_files(config, "messages", (*LINES, *PARQUET))
    folder = path.parent if path.is_file() else path
    opened = read_rows(config, paths, ["messages"], partial(_document, folder))
    return replace(opened, fingerprint=folder_fingerprint(all_files(path), folder))


def _document(folder: Path, messages: Any) -> tuple[str, Segments]:
    if not isinstance(messages, list) or not messages:
        raise ValueError('no messages; give a list of {"role": ..., "content": ...}')
    turns = [_turn(message, f"messages[{n}]") for n, message in enumerate(messages)]
    segments: Segments = []
    for n, (role, parts) in enumerate(turns):
        given = not _ANSWERS[role]
        for kind, value in parts if n == len(turns) - 1 else _ended(parts):
            image = {"bytes": None, "path": str(folder / value)} if kind == "image" else None
            segments.append({"text": None if image else unicode_text(value), "image": image, "given": given})
    return json.dumps(turns), segments


def _turn(message: Any, where: str) -> tuple[str, list[Part]]:
    """Role and parts. Raises ValueError for what is no turn."""
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if not isinstance(role, str) or role not in _ANSWERS:
        raise ValueError(f"{where}.role={role}: no such role; there are {', '.join(_ANSWERS)}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not parts or not all(map(_is_part, parts)):
        raise ValueError(
            f"{where}.content: give a text, or a list of "
            '{"type": "text", "text": TEXT} and {"type": "image", "image": PATH}'
        )
    return role, [(part["type"], part[part["type"]]) for part in parts]


def _is_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("text", "image") and isinstance(part.get(part["type"]), str)


def _ended(parts: list[Part]) -> list[Part]:
    """The parts of a turn with its line break."""
    kind, value = parts[-1]
    return [*parts[:-1], ("text", value + "\n")] if kind == "text" else [*parts, ("text", "\n")]
