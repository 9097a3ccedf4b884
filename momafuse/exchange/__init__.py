"""Runs from foreign checkpoints, and runs as folders that other programs read."""
