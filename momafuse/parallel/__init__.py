"""What is applied to a finished model from outside: precision, activation checkpointing, compile."""
