"""Joint priors of all vectors of a text, in the order of its tokens."""
