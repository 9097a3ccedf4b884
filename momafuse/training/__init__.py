"""From a config to a trained model: the loop, its optimizer and schedule, the run folder, the held-out loss."""
