"""Tests of `models`: SIDs and catalog, store, exact search, releases, reasoners, baselines."""
