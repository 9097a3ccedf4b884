"""What was generated, in a folder: every item as a file, `generated.jsonl` with all texts, `index.html` to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from markupsafe import Markup

from momafuse.data.codecs import Codec
from momafuse.files import write_aside
from momafuse.generation.generator import Made
from momafuse.reports.pages import embedded, rendered
from momafuse.tokens.vocabulary import TEXT

SHOWN = 500  # documents on the page


class Results:
    """Written as it comes: what was made before a run is stopped stays. What an earlier call left there is replaced."""

    def __init__(self, folder: Path, codecs: Mapping[str, Codec], title: str, about: str) -> None:
        self.folder, self._codecs, self._title, self._about = folder, codecs, title, about
        self.count = 0
        self._shown: list[dict[str, Any]] = []

    def __enter__(self) -> Results:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lines = (self.folder / "generated.jsonl").open("w", encoding="utf-8", errors="surrogatepass")
        return self

    def add(self, made: Made, sample: int) -> list[str]:
        """Returns what the console shows: texts, and the paths of files."""
        self.count += 1
        lines: list[str] = []
        shown: list[Markup] = []
        files: list[str] = []
        for part in made.parts:
            if part.modality == TEXT:
                lines.append(part.value)
                shown.append(Markup('<div class="text">{}</div>').format(_sound(part.value)))
                continue
            suffix, data = self._codecs[part.modality].file(part.value)
            path = self.folder / f"{self.count:04d}_{len(files)}.{suffix}"
            path.write_bytes(data)
            files.append(path.name)
            lines.append(str(path))
            shown.append(embedded(suffix, data, made.prompt))
        row = {"prompt": made.prompt, "sample": sample, "text": made.text, "files": files}
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        if len(self._shown) < SHOWN:
            self._shown.append({"prompt": _sound(made.prompt), "parts": shown})
        return lines

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lines.close()
        page = rendered(
            "generated.html", title=self._title, about=self._about, shown=self._shown, left=self.count - len(self._shown)
        )
        write_aside(self.folder / "index.html", page)


def _sound(text: str) -> str:
    """Without lone surrogates, which no file of UTF-8 holds."""
    return text.encode("utf-8", "replace").decode("utf-8")
