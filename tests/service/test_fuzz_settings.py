"""Fuzzing of files that operators write: settings, experiments, the file of API keys.

Any content is read whole, or refused with one line.
"""

import math
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import InvalidSettings
from service.auth.api_keys import KeyRing, new_key
from service.recommend.experiments import Experiments
from service.settings import ENV_PREFIX, ServiceSettings, load_settings

WORDS = st.one_of(
    st.sampled_from(["100", "-1", "1e3", "true", "", " ", "nan", "null", "[]", "redis://", "x"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
)
NAMES = st.one_of(
    st.sampled_from(sorted(ServiceSettings.model_fields)),
    st.text("abcdefghij_", min_size=1, max_size=20),
)


def _one_line_or_settings(arguments: list[str], environ: dict[str, str]) -> None:
    try:
        found = load_settings(arguments, environ)
    except InvalidSettings as exc:
        assert_is_one_line(exc)
    else:
        assert isinstance(found, ServiceSettings)


def assert_is_one_line(exc: InvalidSettings) -> None:
    assert len(str(exc).splitlines()) == 1, str(exc)


@given(environ=st.dictionaries(NAMES, WORDS, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_environment_is_settings_or_one_line(environ: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        named = {ENV_PREFIX + name.upper(): value for name, value in environ.items()}
        for name, value in named.items():
            patch.setenv(name, value)
        _one_line_or_settings(["--release", "somewhere"], named)


@given(st.lists(st.one_of(WORDS, st.sampled_from(["--release", "--port", "--redis", "--host"]))))
@settings(max_examples=200, deadline=None)
def test_any_command_line_is_settings_or_one_line(arguments: list[str]) -> None:
    with suppress(SystemExit):  # --help
        _one_line_or_settings(arguments, {})


YAML = st.recursive(
    st.one_of(WORDS, st.integers(), st.floats(), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


@given(st.one_of(YAML, st.binary(max_size=200), st.dictionaries(NAMES, WORDS, max_size=6)))
@settings(max_examples=300, deadline=None)
def test_any_file_is_settings_or_one_line(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "service.yaml"
        text = content if isinstance(content, bytes) else yaml.safe_dump(content).encode()
        file.write_bytes(text)
        _one_line_or_settings(["--release", "somewhere", "--config", str(file)], {})


# Experiments and keys


POSITIVE = st.sampled_from([1, 3, 0.5, 5e-324, 1e308, 2**70, 10**400, float("inf")])
LABELS = st.sampled_from("abcdefgh")
ODD = st.one_of(
    st.sampled_from([0, -1, 0.5, float("nan"), True]),
    st.sampled_from(["", "x\ny", "\ud800", "n" * 65]),
    st.none(),
    st.lists(LABELS),
)
Entry = dict[str, Any]


def entries_of(must: Entry, may: Entry) -> st.SearchStrategy[Entry]:
    """Valid entries, and now and then a wrong value or an unknown name."""
    sound = st.fixed_dictionaries(must, optional=may)
    wrong = st.dictionaries(st.sampled_from([*must, *may, "x\ny"]), ODD, min_size=1, max_size=1)
    is_sound = st.sampled_from([True] * 9 + [False])
    return is_sound.flatmap(
        lambda yes: sound if yes else st.builds(lambda one, other: one | other, sound, wrong)
    )


def named(entry: st.SearchStrategy[Entry], name: str) -> st.SearchStrategy[list[Entry]]:
    return st.lists(entry, min_size=1, max_size=3, unique_by=lambda each: repr(each[name]))


def written(folder: str, values: object) -> Path:
    file = Path(folder) / "written.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


ARM = entries_of(
    {"name": LABELS},
    {
        "weight": POSITIVE,
        "mode": st.sampled_from(["strict", "union"]),
        "generation": st.sampled_from([1, "live", "canary", "none"]),
        "paths": st.sampled_from([1, 64]),
        "prefixes": st.sampled_from([1, 1024]),
    },
)
EXPERIMENT = entries_of(
    {"name": LABELS, "share": st.sampled_from([0.1, 1 / 3, 1]), "arms": named(ARM, "name")},
    {"layer": LABELS, "salt": LABELS, "start": st.sampled_from([0, 0.1, 0.9])},
)
CLIENT = entries_of(
    {
        "client": LABELS,
        "scopes": st.lists(st.sampled_from(["recommend", "events", "users", "items"]), min_size=1),
        "keys": named(
            entries_of(
                {"sha256": st.sampled_from([64 * digit for digit in "0123456789"])},
                {"expires": st.dates()},
            ),
            "sha256",
        ),
    },
    {"rate_per_s": POSITIVE, "burst": POSITIVE},
)


@given(named(EXPERIMENT, "name"), st.lists(st.text(min_size=1), min_size=5, max_size=5))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_experiments_deal_every_user_or_are_refused(
    experiments: list[Entry], users: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = written(folder, {"experiments": experiments})
        try:
            found = load_settings(["--release", "somewhere", "--config", str(file)], {})
        except InvalidSettings as exc:
            assert_is_one_line(exc)
            return
    for experiment in found.experiments:
        assert 0 < sum(arm.weight for arm in experiment.arms) < math.inf
    for choice in map(Experiments(found.experiments).choose, users):
        assert all(0 <= exposure.share <= 1 for exposure in choice.exposures)


@given(named(CLIENT, "client"), st.text())
@settings(max_examples=200, deadline=None)
def test_any_file_of_keys_is_a_ring_that_works_or_is_refused(
    clients: list[Entry], key: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            ring = KeyRing(written(folder, {"clients": clients}))
        except InvalidSettings as exc:
            assert_is_one_line(exc)
            return
    assert ring.find(key) is None
    for held in ring._entries.values():
        if held.caller.bucket is not None:
            assert math.isfinite(held.caller.bucket.take().reset_s)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_in_place_of_a_file_of_keys_leave_those_that_were(content: bytes) -> None:
    made = new_key()
    client = {"client": "shop", "scopes": ["recommend"], "keys": [{"sha256": made.sha256}]}
    with tempfile.TemporaryDirectory() as folder:
        file = written(folder, {"clients": [client]})
        ring = KeyRing(file)
        file.write_bytes(content)
        assert not ring.refresh()
        assert ring.find(made.key) is not None
