"""Weights on disk: read, write, convert, load."""
