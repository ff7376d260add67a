"""Tests of whole processes: service, night, training run, demo, and real Redis topologies.

All of them carry the marker `system` and run one after another, never under pytest-xdist.
"""
