"""Thoughts of a reasoner for an evaluation: sampled in chunks, kept on disk, forced or empty."""
