"""Folders that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from momafuse.errors import UserError
from momafuse.files import folder_aside


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    wanted = tmp_path / "runs" / "whole"
    with folder_aside(wanted) as aside:
        (aside / "file").write_text("x")
        assert not wanted.exists()
    assert names(wanted) == ["file"]
    assert names(tmp_path / "runs") == ["whole"]


def test_what_fails_or_was_killed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".whole.partial").mkdir()
    (tmp_path / ".whole.partial" / "of one that was killed").touch()

    def fail() -> None:
        with folder_aside(tmp_path / "whole") as aside:
            assert names(aside) == []
            (aside / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []


def test_two_cannot_make_one_folder(tmp_path: Path) -> None:
    with folder_aside(tmp_path / "whole") as aside:
        (aside / "file").touch()
        with pytest.raises(UserError, match="whole: another process is writing it"), folder_aside(tmp_path / "whole"):
            pytest.fail("both write")
    assert names(tmp_path / "whole") == ["file"]
