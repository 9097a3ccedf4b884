"""The figures and the tables of docs/zoo.md.

    python scripts/draw_zoo.py                    # writes docs/images/zoo/*.svg, one for each kind of layer
    python scripts/draw_zoo.py --out DIR
    python scripts/draw_zoo.py --table members    # prints a table as Markdown: members, sizes

A second run writes the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo_page.figures import FIGURES

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "zoo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the figures (default: %(default)s)")
    parser.add_argument("--table", choices=("members", "sizes"), help="print this table instead")
    args = parser.parse_args()
    if args.table:
        from zoo_page.table import TABLES  # builds models, on fake tensors: figures need no torch

        print(TABLES[args.table]())
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw().save(args.out / f"{name}.svg")


if __name__ == "__main__":
    main()
