"""Tests of `bench`: metrics, tables, load, faults; each against a simpler computation."""
