"""Toy worlds, fake stores, scripted servers and harnesses; no tests.

`toy.py` is the world of 200 items, `service_harness.py` runs a service over it, `toy_night.py` and
`night_world.py` run nights over it, and `memory_store.py` is a store without a server.
"""
