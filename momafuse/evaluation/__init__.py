"""How good a trained model is, and under which routing: held-out loss by modality, source and task."""
