"""Tests of whole processes: service, night, training run, demo, and real Redis topologies."""

from pathlib import Path

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


def is_timed(file: Path) -> bool:
    """Return True for a file of this folder whose tests depend on time."""
    return file.is_relative_to(HERE) and file.name not in PATIENT
