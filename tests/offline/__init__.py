"""Tests of `offline`: plans, nights, shards, loading, gates, erasure and workers."""
