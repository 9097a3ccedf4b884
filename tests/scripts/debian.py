"""Debian packages out of a folder, for scripts that unpack some."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CONTROL = "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"


def debian_package(tree: Path, file: Path) -> Path:
    """Skips the test where there is no dpkg-deb."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(CONTROL)
    subprocess.run(["dpkg-deb", "-b", str(tree), str(file)], check=True, capture_output=True)
    return file
