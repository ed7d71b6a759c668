"""Helpers of several rooms: files, seeds, names of models, error messages."""
