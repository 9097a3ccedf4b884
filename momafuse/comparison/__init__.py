"""Runs held against a baseline: speed-ups, shares of steps, their spread over seeds, power laws over sizes."""
