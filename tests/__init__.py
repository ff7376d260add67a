"""Tests, in the folders of the code that they test; `system` holds tests of whole processes.

`fakes` holds the toy world and the harnesses. Fixtures are in `conftest.py` files.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
