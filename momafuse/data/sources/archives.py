"""Members of .zip and .tar files of a user's folder, by name. What is damaged is a ValueError or an OSError that names the
file."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from pathlib import Path

ARCHIVES = (".zip", ".tar")
OTHER_ARCHIVES = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z", ".rar")
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)  # RuntimeError: zipfile, of encrypted ones


def is_archive(path: Path) -> bool:
    return path.suffix.lower() in ARCHIVES


class Archive:
    """One archive, open."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError where it cannot be read."""
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            if path.suffix.lower() == ".zip":
                self._zip = zipfile.ZipFile(path)
                names = [name for name in self._zip.namelist() if not name.endswith("/")]
            else:
                self._tar = tarfile.open(path)  # noqa: SIM115 -- stays open
                self._members = {member.name: member for member in self._tar if member.isfile()}
                names = list(self._members)
        except (*DAMAGED, OSError) as error:
            raise ValueError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
        self.names = [name for name in names if not _is_rubbish(name)]

    def read(self, name: str) -> bytes:
        """Raises OSError where the member is damaged."""
        try:
            if self._zip is not None:
                return self._zip.read(name)
            assert self._tar is not None
            file = self._tar.extractfile(self._members[name])
            return b"" if file is None else file.read()
        except DAMAGED as error:
            raise OSError(f"{self.path.name}/{name}: {' '.join(str(error).split())}") from error


def _is_rubbish(name: str) -> bool:
    """What a Mac puts beside every file."""
    parts = name.split("/")
    return parts[0] == "__MACOSX" or parts[-1].startswith("._")
