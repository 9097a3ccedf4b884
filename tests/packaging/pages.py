"""What the pages of docs/ ask their reader to run: lines that begin a program, indented or in a fence, with what they stand
on; Python in fences; commands in sentences."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(page for page in (REPOSITORY / "docs").glob("*.md") if page.stem != "log")
BEGINS = re.compile(
    r"(?:PYTHONPATH=\. )?python (?:-m momafuse|scripts/)|torchrun |sbatch |scripts/\w|make [a-z-]+\b(?! )|make [a-z-]+ +#"
)
FENCED = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)
IN_A_SENTENCE = re.compile(r"`((?:python (?:-m momafuse\.|scripts/)|torchrun --|make )[^`\n]+)`")
VARIABLE = re.compile(r'^\s*([A-Z]+)="([^"]*)"\s*(?:#.*)?$', flags=re.MULTILINE)


@dataclass(frozen=True)
class Command:
    page: str
    text: str
    notes: tuple[str, ...] = ()  # the comments below it

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def module(self) -> str:
        """What `python -m momafuse.` runs; empty for any other program."""
        found = re.search(r"(?:python|torchrun .*) -m momafuse\.(\w+)", self.text)
        return found[1] if found else ""

    @property
    def script(self) -> str:
        """What is run of scripts/ or slurm/; empty for any other program."""
        return next((word for word in self.words if word.startswith(("scripts/", "slurm/"))), "")

    @property
    def rest(self) -> list[str]:
        """The words for the module or the script."""
        return self.words[self.words.index(f"momafuse.{self.module}" if self.module else self.script) + 1 :]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Snippet:
    """Python to type; where it registers something it is a module of the reader's, which commands import."""

    page: str
    code: str

    @property
    def registers(self) -> bool:
        return "@register" in self.code


def steps(page: Path) -> list[Command | Snippet]:
    """In order; `$NAME` is what the page says of it before."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    named = variables() | dict(VARIABLE.findall(text))
    found: list[Command | Snippet] = []
    language, code = None, ""  # of the fence
    for line in text.splitlines():
        if line.startswith("```"):
            if language == "python":
                found.append(Snippet(page.name, code))
            language, code = (line[3:] if language is None else None), ""
        elif language == "python":
            code += line + "\n"
        elif BEGINS.match(line.strip()) and (language is not None or line.startswith("    ")):
            filled = re.sub(r"\$([A-Z]+)", lambda name: named.get(name[1], name[0]), line.strip())
            found.append(Command(page.name, filled))
        elif found and isinstance(found[-1], Command) and line.startswith("    # "):
            found[-1] = replace(found[-1], notes=(*found[-1].notes, line.removeprefix("    # ")))
    return found


def commands(page: Path) -> list[Command]:
    return [step for step in steps(page) if isinstance(step, Command)]


def snippets(page: Path) -> list[Snippet]:
    return [step for step in steps(page) if isinstance(step, Snippet)]


def said_in_sentences(page: Path) -> list[Command]:
    """The commands with words of their own; the bare name of a program is none."""
    prose = FENCED.sub("", page.read_text(encoding="utf-8"))
    found = [Command(page.name, text) for text in IN_A_SENTENCE.findall(prose)]
    return [command for command in found if command.words[0] == "make" or command.script or command.rest]


@cache
def variables() -> dict[str, str]:
    """Of all pages, which refer to one another."""
    return {name: value for page in PAGES for name, value in VARIABLE.findall(page.read_text(encoding="utf-8"))}


def every_command() -> list[Command]:
    return [command for page in PAGES for command in commands(page)]
