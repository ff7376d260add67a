"""Flat tests: one `test_<thing>.py` per thing, `toy.py` the toy world, `fakes.py` what stands in for a collaborator."""
