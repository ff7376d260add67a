"""Tests of `training`: examples, losses, every stage of the reasoner, recipes."""
