"""Checkpoints on disk: written aside, complete only with their marker, checked when read."""
