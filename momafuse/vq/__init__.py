"""What the VQ tokenizers of pictures and of speech share: quantizer, training, optimizer, the file of weights."""
