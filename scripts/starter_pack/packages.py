"""Fetches packages one by one, checks their SHA-256 and unpacks them; nothing gets installed. `PACKAGES` are the pack's five.

A package is cached under its hash, so a file put there by hand serves as well as a download. Versions are pinned:
other versions give other bytes, and so another pack. Only what is replaced by every security update has neither version nor
hash (the corpora use such packages, the pack does not); it is fetched anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from starter_pack.errors import PackError


_SUFFIXES = {"deb": ".deb", "npm": ".tgz", "wheel": ".whl", "sdist": ".gz"}
_PIP = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]


@dataclass(frozen=True)
class Package:
    """A package: `kind` is "deb" (fetched by apt-get), "npm", or "wheel" and "sdist" of PyPI; pinned where it has a hash."""

    name: str
    version: str | None
    kind: str
    sha256: str | None

    @property
    def cache_name(self) -> str:
        """Of a pinned one."""
        return f"{self.sha256}{_SUFFIXES[self.kind]}"

    @property
    def fetch_command(self) -> list[str]:
        if self.kind == "deb":
            return ["apt-get", "download", f"{self.name}={self.version}" if self.version else self.name]
        if self.kind == "npm":
            return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
        return [*_PIP, "--only-binary" if self.kind == "wheel" else "--no-binary", ":all:", f"{self.name}=={self.version}"]

    def is_called(self, file: str) -> bool:
        """Whether the registry would give the package's file this name, in any version."""
        stem = re.escape(self.name.removeprefix("@").replace("/", "-"))
        if self.kind in ("wheel", "sdist"):
            stem = stem.replace(r"\-", "[-_.]")
        return re.match(rf"{stem}[-_][v\d]", file) is not None and file.endswith(_SUFFIXES[self.kind])


OPENCLIPART_PNG = Package(
    "openclipart-png", "1:0.18+dfsg-19", "deb", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"
)
OPENCLIPART_SVG = Package(
    "openclipart-svg", "1:0.18+dfsg-19", "deb", "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"
)
WORDNET = Package("wordnet-base", "1:3.0-37", "deb", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752")
FLUENT = Package("@lobehub/fluent-emoji-3d", "1.1.0", "npm", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58")
EMOJIBASE = Package("emojibase-data", "17.0.0", "npm", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
PACKAGES = (OPENCLIPART_PNG, OPENCLIPART_SVG, WORDNET, FLUENT, EMOJIBASE)


def default_cache() -> Path:
    """The user's cache folder for source packages."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "momafuse" / "packages"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(package: Package, cache: Path) -> Path:
    """Path of the package in the cache, downloaded when it is not there.

    Raises `PackError` when it cannot be had or has another hash.
    """
    if package.sha256 is not None and (there := cache / package.cache_name).exists():
        if sha256_of(there) != package.sha256:
            raise PackError(f"{package.name}: {there} does not have the hash in its name; delete it and run again")
        return there
    by_hand = (
        "" if package.sha256 is None else f", or put the file of version {package.version} at {cache / package.cache_name}"
    )
    tool = package.fetch_command[0]
    if shutil.which(tool) is None:
        raise PackError(f"{package.name}: {tool} is not on this machine; install it{by_hand}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        run = subprocess.run(package.fetch_command, cwd=folder, capture_output=True, text=True, check=False)
        found = sorted(path for path in Path(folder).iterdir() if path.suffix == _SUFFIXES[package.kind])
        if run.returncode != 0 or len(found) != 1:
            why = (run.stderr.strip().splitlines() or ["no file came"])[-1]
            raise PackError(f"{package.name}: {' '.join(package.fetch_command)} failed ({why}); try again{by_hand}")
        check(package, found[0])
        target = cache / (found[0].name if package.sha256 is None else package.cache_name)
        found[0].replace(target)
    return target


def check(package: Package, file: Path) -> None:
    """Raises `PackError` where a pinned package's file has another hash."""
    if package.sha256 is not None and (got := sha256_of(file)) != package.sha256:
        raise PackError(f"{package.name}: SHA-256 is {got}, not {package.sha256}; get version {package.version}")


def unpack(package: Package, archive: Path, folder: Path) -> Path:
    """Unpacks `archive` under `folder` and returns the package's own root folder."""
    root = folder / package.name.rpartition("/")[2]
    root.mkdir(parents=True)
    if package.kind == "deb":
        if shutil.which("dpkg-deb") is None:
            raise PackError(f"{package.name}: dpkg-deb is not on this machine; install the dpkg package")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(root)], check=True)
        return root
    if package.kind == "wheel":
        shutil.unpack_archive(archive, root, "zip")
        return root
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    return root / "package" if package.kind == "npm" else root
