"""The night's own model of items: a ridge regression over users and words, and what it finds."""
