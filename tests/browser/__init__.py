"""Tests of the page `/explore` in a real Chromium; `make test-browser` runs them."""
