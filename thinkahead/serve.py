"""`thinkahead serve`: import if asked to, then serve a release and what a learner makes of it."""

import os
import subprocess
import sys
from collections.abc import Sequence

from models.errors import ThinkAheadError
from service.__main__ import main as service
from service.settings import EffectiveSettings, ServiceSettings, resolve_settings
from thinkahead.words import beside, has, is_subcommand, value_of, without


def main(arguments: Sequence[str]) -> int:
    if is_subcommand(arguments) or has(arguments, "-h", "--help"):
        return service(arguments)
    data = value_of(arguments, "--data")
    words = without(arguments, "--data")
    if "--check" in words:
        return service(["check", *(word for word in words if word != "--check")])
    try:
        effective = resolve_settings(words, os.environ)
    except ThinkAheadError:
        return service(words)  # reports the error
    if data is not None and (code := _import(data, effective.settings)):
        return code
    return service([*words, *_live_words(effective)])


def _live_words(effective: EffectiveSettings) -> list[str]:
    """Return the option that follows the live folder of the release, unless one is set."""
    release = effective.settings.release_dir
    if release is None or effective.settings.live_dir is not None:
        return []
    return ["--live", str(beside(release, "live"))]


def _import(data: str, settings: ServiceSettings) -> int:
    """Import in a process of its own, whose memory ends with it."""
    words = [sys.executable, "-m", "thinkahead", "night", "import", "--data", data]
    if settings.redis_url is not None:
        words += ["--redis", settings.redis_url]
    words += ["--namespace", settings.namespace]
    state = settings.state_dir
    environ = os.environ | ({"THINKAHEAD_STATE_DIR": str(state)} if state else {})
    return subprocess.run(words, env=environ, check=False).returncode
