"""Releases: models, catalog and SID space, published together and verified at load."""
