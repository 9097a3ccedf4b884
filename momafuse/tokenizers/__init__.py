"""Runs that train a tokenizer: what they read, what the user sees, and what they leave in the folder."""
