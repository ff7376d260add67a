"""Marks the tests of this folder with `system`, except files without a bound on time."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Their tests start processes and wait for them, but nothing in them has to be done by a moment.
# So they may run beside other tests.
PATIENT = {
    "test_demo.py",
    "test_night_kills.py",
    "test_redis_tls.py",
    "test_redis_url.py",
    "test_redis_users.py",
    "test_service_admin.py",
    "test_service_check.py",
    "test_service_schemathesis.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.name not in PATIENT:
            item.add_marker(pytest.mark.system)
