"""Shared by all commands: results files, left-out items, synthetic users, service processes."""
