"""NVIB attention in place of the attention of a trained Transformer: mathematics and layers, without Pyro."""
