"""Judges releases and shows them: quality, semantic ids, trie, load, and the demo.

    python -m bench quality|exact|sids|trie|latency|scenario|demo --help

Reads a release and a data folder, cuts histories itself without Redis, and reaches the service over
HTTP. Imports `models` only. Every `--json` file holds {"meta": {...}, "rows": [{"name": ...}]}.
"""
