"""Sets of runs: what they are (plan), which are there (state, stored), how they are made (making, slurm), shown (table)."""
