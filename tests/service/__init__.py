"""Tests of `service` inside the test process: its API, ladder, users, limits, keys and client."""
