"""Weights of other programs in, ours out: safetensors and config.json as the Hugging Face libraries read and write them."""
