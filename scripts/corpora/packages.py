"""Packages of three registries, by the names that a corpus gives them: downloaded, and unpacked into one folder.

    debian:NAME                apt-get download, FILE.deb
    npm:NAME@VERSION           npm pack, FILE.tgz; its files lie under package/
    pypi:NAME==VERSION         pip download --no-deps, FILE.whl

Nothing is installed, and no checksums are compared beyond what those tools do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

DOWNLOADS = {
    "debian": ["apt-get", "download"],
    "npm": ["npm", "pack", "--silent"],
    "pypi": [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"],
}
# What a file that is no archive, or is cut short, can raise beside an OSError.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


def plain(package: str) -> str:
    """The name as its own tool knows it."""
    return package.partition(":")[2]


def download(packages: Sequence[str], room: Path) -> list[Path]:
    """The packages' files, in the folder `room`."""
    for registry, command in DOWNLOADS.items():
        wanted = [plain(package) for package in packages if package.startswith(f"{registry}:")]
        if not wanted:
            continue
        try:
            subprocess.run([*command, *wanted], cwd=room, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = f"exit status {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else str(error)
            asked = " ".join([Path(command[0]).name, *command[1:], *wanted])
            sys.exit(f"fetch_corpus: {asked} failed ({why}); fetch all packages elsewhere and name their files by --package")
    return sorted(path for path in room.iterdir() if path.is_file())


def unpack(packages: Sequence[Path], folder: Path) -> Path:
    """All into the one folder, as each lies in its package."""
    folder.mkdir()
    for package in packages:
        try:
            _unpack(package, folder)
        except (*DAMAGE, OSError, subprocess.CalledProcessError, ValueError) as error:
            sys.exit(f"fetch_corpus: --package={package}: cannot be unpacked ({error})")
    return folder


def _unpack(package: Path, folder: Path) -> None:
    if package.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    elif package.suffix == ".tgz":
        with tarfile.open(package) as tar:
            tar.extractall(folder, filter="data")
    elif package.suffix == ".whl":
        shutil.unpack_archive(package, folder, "zip")
    else:
        raise ValueError("its name ends neither in .deb nor in .tgz nor in .whl")
