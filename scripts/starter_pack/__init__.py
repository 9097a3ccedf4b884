"""The parts of `scripts/build_starter_pack.py`: packages in, the files of `momafuse/assets/starter-1/` out.

Needs Pillow, NumPy and rich only. Not part of the installed package.
"""
