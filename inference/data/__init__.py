"""Corpora: texts and pairs read from files, tokenized, stored, and served in batches."""
