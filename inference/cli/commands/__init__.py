"""The commands, one module each; signature and docstring of a command are its options and its help."""
