"""The wheelhouse: which wheels for which computer; and how it is known that there is no network.

``make wheelhouse-check`` does the whole installation, which takes a minute.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import sys_tags

from tests.support import own_network
from tests.unit.test_project import ROOT, SERIES, pins, read_pyproject
from tools import wheelhouse, wheelhouse_check

PINS = ["some-tool==1.0", "fast_thing==2.0"]


def make_wheel(folder: Path, name: str, version: str, tag: str) -> None:
    """Make a wheel without content."""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", about)
        wheel.writestr(f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        wheel.writestr(f"{name}-{version}.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only place where pip finds packages: one for all computers, one for Windows."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder, "some_tool", "1.0", "py3-none-any")
    make_wheel(folder, "fast_thing", "2.0", "cp312-cp312-win_amd64")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(wheelhouse, "pins", lambda name, python: PINS)
    return folder


@pytest.mark.usefixtures("index")
def test_the_wheels_of_another_computer_are_collected(tmp_path: Path) -> None:
    assert wheelhouse.collect("windows", "3.12", tmp_path / "stick") == 2
    assert sorted(file.name for file in (tmp_path / "stick").iterdir()) == [
        "fast_thing-2.0-cp312-cp312-win_amd64.whl",
        "some_tool-1.0-py3-none-any.whl",
    ]


@pytest.mark.usefixtures("index")
def test_a_wheel_that_cannot_be_had_is_an_error_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--platform", "macos-arm64", "--series", "3.12", "--folder", str(tmp_path / "to")]
    assert wheelhouse.main(arguments) == 1
    told = capsys.readouterr().err
    assert told.startswith("wheelhouse: ") and "fast_thing==2.0" in told


def test_a_wheel_in_another_version_does_not_count(tmp_path: Path) -> None:
    make_wheel(tmp_path, "some_tool", "1.1", "py3-none-any")
    make_wheel(tmp_path, "Fast_Thing", "2.0", "cp312-cp312-win_amd64")
    assert wheelhouse.absent(PINS, tmp_path) == ["some-tool==1.0"]


def test_for_this_computer_pip_looks_for_what_it_can_run() -> None:
    series = ".".join(map(str, sys.version_info[:2]))
    options = wheelhouse._target(wheelhouse.this_platform(), f"{series}.0")
    accepted = [tag.platform for tag in sys_tags() if tag.platform != "any"]
    assert options[-1] == accepted[-1] and accepted[0] in options


def test_there_is_a_wheelhouse_for_every_supported_python_and_system() -> None:
    assert list(wheelhouse.SERIES) == SERIES
    assert [name for name, one in wheelhouse.PLATFORMS.items() if not one.has_uamqp] == [
        "linux-aarch64",
        "macos-arm64",
    ]


def test_what_builds_the_kit_is_in_the_wheelhouse() -> None:
    tools = {Requirement(line).name for line in wheelhouse.TOOLS}
    assert {Requirement(line).name for line in read_pyproject()["build-system"]["requires"]} < tools
    assert set(wheelhouse.BUILT_HERE) < pins().keys()


def test_the_command_that_is_checked_is_the_one_that_the_readme_tells() -> None:
    readme = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert wheelhouse_check.INSTALL in readme
    assert wheelhouse_check.INSTALL in (wheelhouse.__doc__ or "")


def test_a_network_of_ones_own_has_no_route() -> None:
    code = "from tools.wheelhouse_check import require_no_route; require_no_route()"
    command = [*own_network(), sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("answer", [None, errno.ECONNREFUSED, errno.ETIMEDOUT])
def test_where_there_is_a_route_nothing_is_checked(
    monkeypatch: pytest.MonkeyPatch, answer: int | None
) -> None:
    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        if answer is not None:
            raise OSError(answer, os.strerror(answer))
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(SystemExit, match="there is a route"):
        wheelhouse_check.require_no_route()
