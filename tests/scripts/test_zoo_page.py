"""docs/zoo.md is true: its tables are those of `scripts/draw_zoo.py --table`, its commands run, its overrides make models."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from momafuse.config.compose import compose, members
from tests.members import member

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "zoo.md").read_text()


def section(heading: str) -> str:
    """The text below `## heading`, up to the next one."""
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def table(name: str) -> str:
    """The committed table of that name."""
    marked = re.search(
        rf"^<!-- table: python scripts/draw_zoo\.py --table {name} -->\n\n(.*?)\n\n<!-- end -->$", PAGE, re.M | re.S
    )
    assert marked is not None
    return marked[1]


def commands() -> list[str]:
    """The indented commands, one a line."""
    return re.findall(r"^    python -m momafuse\.train (.*)$", PAGE, re.M)


def marked_commands() -> list[str]:
    blocks = re.findall(r"^<!-- test -->\n```bash\n(.*?)^```", PAGE, re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def overrides() -> list[tuple[str, str]]:
    """(member, words) of every row of the table of overrides."""
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", section("Overrides"), re.M)
    return [(name, words) for words, name in rows]


def test_every_member_has_a_line_and_a_command():
    assert sorted(re.findall(r"^\| \[?`(\w+)`", table("members"), re.M)) == sorted(members())
    named = " ".join(re.findall(r"^(?:    python .*|`m.*)$", PAGE, re.M))
    assert [name for name in members() if not re.search(rf"\b{name}\b", named)] == []


def test_a_line_is_the_first_sentence_of_the_members_file():
    from zoo_page.table import sentence

    lines = dict(re.findall(r"^\| \[?`(\w+)`[^|]*\| ([^|]*) \|", table("members"), re.M))
    assert lines == {name: sentence(name) for name in members()}


def test_there_is_something_to_test():
    assert len(commands()) > 6
    assert len(overrides()) > 15
    assert len(marked_commands()) == 1


@pytest.mark.parametrize("words", commands())
def test_a_command_composes(words):
    compose(shlex.split(words))


@pytest.mark.parametrize(("name", "words"), overrides())
def test_an_override_makes_a_model(name, words):
    member(name, *words.split())


def test_the_marked_command_runs(tmp_path: Path):
    for line in marked_commands():
        python, *words = (word for word in shlex.split(line) if not word.startswith("size="))
        assert python == "python"
        subprocess.run(
            [sys.executable, *words, "size=micro"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True
        )


def test_links_lead_somewhere():
    headings = {re.sub(r"[^\w -]", "", h).replace(" ", "-").lower() for h in re.findall(r"^#+ (.*)$", PAGE, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert (REPOSITORY / "docs" / path).exists() if path else anchor in headings, target


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["members", "sizes"])
def test_a_table_is_what_describe_counts(name):
    from zoo_page.table import TABLES

    assert table(name) == TABLES[name]()
