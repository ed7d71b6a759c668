"""Helpers that every room uses: choices, numbers, precision, lazy exports."""
