"""Speech: sound files to samples, and codecs that turn samples into codes and back."""
