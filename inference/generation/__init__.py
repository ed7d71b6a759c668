"""Generation of texts: sampling, reconstruction, interpolation, editing."""
