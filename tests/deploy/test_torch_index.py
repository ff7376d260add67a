"""The choice of torch's build by `make`, against index servers of this process."""

import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from platform import machine

import pytest

from tests import ROOT

PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
WHEEL = f"torch-2.13.0+cpu-{PYTHON}-{PYTHON}-manylinux_2_28_{machine()}.whl"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or Path("/proc/driver/nvidia/version").exists(),
    reason="only Linux has a large default build; with a card it is taken",
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


class _Slow(_Quiet):
    def do_GET(self) -> None:
        time.sleep(4)


def serve(handler: type[_Quiet], folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two indexes: `cpu` with a CPU build, `pypi` with the default build."""
    for index, version in (("cpu", "2.13.0+cpu"), ("pypi", "2.13.0")):
        page = tmp_path / index / "torch"
        page.mkdir(parents=True)
        name = WHEEL.replace("2.13.0+cpu", version)
        info = f"torch-{version}.dist-info"
        with zipfile.ZipFile(page / name, "w") as wheel:
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: any\n")
        link = name.replace("+", "%2B")
        (page / "index.html").write_text(f'<a href="{link}#sha256=">{name}</a>')
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    yield from serve(_Quiet, folder)


def choose(index: str, version: str = "2.13.0") -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "torch_index.py"), index, version],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), done.stderr


def test_the_cpu_build_is_taken_and_its_size_is_said(url: str, folder: Path) -> None:
    options, said = choose(f"{url}/cpu")
    assert options == ["--extra-index-url", f"{url}/cpu"]
    assert said.startswith("Downloading torch 2.13.0, the CPU build: 0 MB. The other packages are")


def test_pip_prefers_it_to_the_default_build(url: str, tmp_path: Path) -> None:
    options, _ = choose(f"{url}/cpu")
    pip = [sys.executable, "-m", "pip", "download", "--isolated", "--quiet", "--no-deps"]
    locked = ["--constraint", str(ROOT / "requirements.lock"), "torch"]
    for given in ([], options):
        subprocess.run(
            [*pip, "--index-url", f"{url}/pypi", *given, "--dest", str(tmp_path / "got"), *locked],
            check=True,
        )
    names = sorted(file.name for file in (tmp_path / "got").iterdir())
    assert names == [WHEEL, WHEEL.replace("+cpu", "")]


@pytest.mark.parametrize("version", ["2.99.0", "2.13"])
def test_without_a_build_of_the_version_the_default_is_taken(url: str, version: str) -> None:
    options, said = choose(f"{url}/cpu", version)
    assert options == []
    assert "the default build: gigabytes with its CUDA packages" in said


def test_an_index_that_is_away_or_slow_is_given_up(folder: Path) -> None:
    assert choose("http://127.0.0.1:9/cpu")[0] == []
    for slow in serve(_Slow, folder):
        started = time.monotonic()
        assert choose(f"{slow}/cpu")[0] == []
        assert time.monotonic() - started < 4
