"""Modalities, the vocabulary, text pieces and documents: everything between raw data and ids."""
