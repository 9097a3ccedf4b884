"""What is applied to a finished model from outside: so far, the precision of its products."""
