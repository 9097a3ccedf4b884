"""What a trained model makes: prompts, what may follow, how it is chosen, and what comes of it."""
