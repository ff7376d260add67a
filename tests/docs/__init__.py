"""Tests of README, docs and the other pages: commands, examples, links, names, form."""
