"""Mixtures in the form of an ordinary attention kernel: terms of the logits as columns of queries and keys."""
