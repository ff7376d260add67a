"""Perception: tasks that ground codes, items, pairs and users in words, and their corpus."""
