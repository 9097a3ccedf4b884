"""Slurm jobs: the script of a job (script.py), its folder (folder.py), and how it is handed to Slurm (__main__.py)."""
