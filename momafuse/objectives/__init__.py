"""What a model is trained for: next-token prediction."""
