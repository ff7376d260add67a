"""Tests of the command `thinkahead`."""
