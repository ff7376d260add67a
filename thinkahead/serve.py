"""`thinkahead serve`: import if asked to, then serve a release and what a learner makes of it."""

import os
import subprocess
import sys
from collections.abc import Sequence

from models.errors import ThinkAheadError
from models.store.namespace import namespace_of
from service.__main__ import main as service
from service.settings import EffectiveSettings, ServiceSettings, resolve_settings
from thinkahead.words import beside, has, is_subcommand, value_of, without


def main(arguments: Sequence[str]) -> int:
    if is_subcommand(arguments) or has(arguments, "-h", "--help"):
        return service(arguments)
    data = value_of(arguments, "--data")
    words = [word for word in without(arguments, "--data") if word != "--check"]
    try:
        words += _default_words(resolve_settings(words, os.environ), data)
        settings = resolve_settings(words, os.environ).settings
    except ThinkAheadError:
        return service(words)  # reports the error
    if "--check" in arguments:
        return service(["check", *words])
    if data is not None and (code := _import(data, settings)):
        return code
    return service(words)


def _default_words(effective: EffectiveSettings, data: str | None) -> list[str]:
    """Return the live folder of the release and the namespace of the data, unless they are set."""
    words: list[str] = []
    release = effective.settings.release_dir
    if release is not None and effective.settings.live_dir is None:
        words += ["--live", str(beside(release, "live"))]
    if data is not None and effective.origins["namespace"] == "default":
        words += ["--namespace", namespace_of(data)]
    return words


def _import(data: str, settings: ServiceSettings) -> int:
    """Import in a process of its own, whose memory ends with it."""
    words = [sys.executable, "-m", "thinkahead", "night", "import", "--data", data]
    if settings.redis_url is not None:
        words += ["--redis", settings.redis_url]
    words += ["--namespace", settings.namespace]
    if settings.release_dir is not None:
        words += ["--release", str(settings.release_dir)]
    state = settings.state_dir
    environ = os.environ | ({"THINKAHEAD_STATE_DIR": str(state)} if state else {})
    return subprocess.run(words, env=environ, check=False).returncode
