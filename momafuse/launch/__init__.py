"""Slurm jobs: the script of a job (script.py), its folder (folder.py), how it is submitted (submission.py)."""
