"""Fitted models, their folders and their configurations."""
