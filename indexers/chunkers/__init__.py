"""Chunkers: a file a kind."""
