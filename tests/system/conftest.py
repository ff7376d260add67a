"""Marks the tests of this folder with `system`, except files without a bound on time."""

import pytest

from tests.system import is_timed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_timed(item.path):
            item.add_marker(pytest.mark.system)
