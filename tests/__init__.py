"""Flat test files over the toy world in `toy.py`; none of them knows the workings of another."""
