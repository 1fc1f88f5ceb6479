"""The project's files agree with each other, with what is installed, and with what conda does."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
_LINUX = {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux"}
_MACOS = {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin"}
_WINDOWS = {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows"}
MARKERS = {
    "linux-x86_64": {**_LINUX, "platform_machine": "x86_64"},
    "linux-aarch64": {**_LINUX, "platform_machine": "aarch64"},
    "macos-x86_64": {**_MACOS, "platform_machine": "x86_64"},
    "macos-arm64": {**_MACOS, "platform_machine": "arm64"},
    "windows": {**_WINDOWS, "platform_machine": "AMD64"},
}
SERIES = ["3.10", "3.11", "3.12", "3.13"]
TARGETS = [
    "env",
    "lab",
    "doctor",
    "test",
    "test-azure",
    "test-all",
    "demo",
    "bench-download",
    "bench-fleet",
    "bench-trace",
    "lint",
    "lock",
    "wheelhouse",
    "wheelhouse-check",
    "clean",
    "help",
]
SET_UP_FILES = [
    "constraints.txt",
    "environment.yml",
    "pyproject.toml",
    "requirements.txt",
    "Makefile",
]
STAND_IN = "compat/uamqp"
HOST_NAME = re.compile(r"\b[a-z0-9-]+\.(?:org|com|net|io|dev|cloud)\b", re.IGNORECASE)
OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError")

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def read_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def read_conda_environment() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    return loaded


def conda_python() -> str:
    """The Python that conda and Binder install."""
    (line,) = [
        one for one in read_conda_environment()["dependencies"] if str(one).startswith("python=")
    ]
    return str(line).removeprefix("python=")


def load_file(file: Path) -> ModuleType:
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(f"loaded_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conda_pip_lines() -> list[str]:
    """The lines conda hands to pip."""
    return next(
        entry["pip"]
        for entry in read_conda_environment()["dependencies"]
        if not isinstance(entry, str)
    )


def requirement_lines() -> list[str]:
    """What requirements.txt hands to pip."""
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def requirements_of_project() -> list[Requirement]:
    project = read_pyproject()
    lines = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    return [Requirement(line) for line in lines]


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def pins(environment: dict[str, str] | None = None) -> dict[str, list[str]]:
    """Pinned versions by normalised name, for one environment (default: the running one)."""
    found: dict[str, list[str]] = {}
    for line in constraint_lines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pinned = next(iter(requirement.specifier)).version
            found.setdefault(canonicalize_name(requirement.name), []).append(pinned)
    return found


def as_pinned(name: str, installed: str) -> str:
    """The version to compare with the pin: the stand-in for uamqp is as good as uamqp."""
    return installed.removesuffix("+standin") if name == "uamqp" else installed


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment of this process without what an outer make, pytest or Python hands down."""
    inherited = {
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "PYTHON",
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
    }
    return {name: value for name, value in os.environ.items() if name not in inherited} | extra


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("platform", MARKERS)
def test_every_dependency_has_one_pin_in_its_range(series: str, platform: str) -> None:
    environment = {
        **MARKERS[platform],
        "python_version": series,
        "python_full_version": f"{series}.9",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pinned = pins(environment)

    assert {name: many for name, many in pinned.items() if len(many) > 1} == {}
    for requirement in requirements_of_project():
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} has no pin: make lock"
        assert pinned[name][0] in requirement.specifier, f"{name}: pin outside its range: make lock"


def test_constraints_are_exact_pins_and_nothing_else() -> None:
    assert len(constraint_lines()) > 50
    for line in constraint_lines():
        requirement = Requirement(line)
        assert not requirement.extras and requirement.url is None, line
        assert [one.operator for one in requirement.specifier] == ["=="], line


def test_no_pin_is_for_pythons_outside_the_range() -> None:
    environments = [
        {**markers, "python_version": series, "python_full_version": f"{series}.{patch}"}
        for markers in MARKERS.values()
        for series in SERIES
        for patch in (0, 9)
    ]
    for line in constraint_lines():
        marker = Requirement(line).marker
        assert marker is None or any(marker.evaluate(one) for one in environments), line


def test_every_file_names_the_same_pythons() -> None:
    project = read_pyproject()["project"]
    supported = SpecifierSet(project["requires-python"])
    minors = [f"3.{minor}" for minor in range(6, 30) if f"3.{minor}" in supported]
    classified = [line.rpartition(" ")[2] for line in project["classifiers"] if ":: 3." in line]
    makefile = (ROOT / "Makefile").read_text("utf-8")

    assert minors == SERIES == classified
    assert conda_python() in minors
    assert " ".join(f"python{series}" for series in reversed(SERIES)) in makefile


def test_the_conda_environment_installs_this_project_with_these_pins() -> None:
    environment = read_conda_environment()

    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert "pip" in environment["dependencies"]
    assert conda_pip_lines() == ["-r requirements.txt"]
    *kit, stand_in = requirement_lines()
    assert kit == ["-c constraints.txt", "-e ."]
    assert stand_in.startswith(f"./{STAND_IN} ; ")


OTHER_SET_UP_FILES = [
    f"{STAND_IN}/pyproject.toml",
    "noxfile.py",
    "tools/wheelhouse.py",
    ".ci/run",
    ".devcontainer/devcontainer.json",
    ".github/workflows/ci.yml",
    ".pre-commit-config.yaml",
]


@pytest.mark.parametrize("name", [*SET_UP_FILES, *OTHER_SET_UP_FILES])
def test_no_file_of_the_set_up_names_a_host_an_index_or_a_folder_of_one_machine(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")

    assert "://" not in text
    assert HOST_NAME.findall(text) == []
    assert re.findall(r"--(?:extra-)?index-url|--find-links (?!build/)|--trusted-host", text) == []
    assert re.findall(r"(?<![\w.])/(?:home|root|work|Users|opt|tmp)/", text) == []


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned = pins()
    differing = {
        name: f"{one.version} installed, {pinned[name][0]} pinned"
        for one in distributions()
        if (name := canonicalize_name(one.metadata["Name"])) in pinned
        and as_pinned(name, one.version) != pinned[name][0]
    }
    assert differing == {}, "make env (or make clean, then make env)"


def test_every_dependency_is_installed() -> None:
    missing = []
    for requirement in requirements_of_project():
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            assert version(requirement.name) in requirement.specifier
        except PackageNotFoundError:
            missing.append(requirement.name)
    assert missing == []


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A copy of what an installation needs, in a folder of its own that is deleted at once."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "a clone"
        target.mkdir()
        for name in [*SET_UP_FILES, "README.md", "LICENSE"]:
            shutil.copy(ROOT / name, target)
        for name in ("fwupdate_helpers", STAND_IN):
            shutil.copytree(
                ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        yield target


@pytest.mark.long
@pytest.mark.timeout(300)
def test_conda_can_install_the_pip_section_into_an_empty_environment(checkout: Path) -> None:
    venv = checkout.parent / "venv"
    create: list[str | Path] = [sys.executable, "-m", "venv", "--without-pip", venv]
    subprocess.run(create, check=True, env=clean_environment())
    scripts = venv / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--no-input",
        "--disable-pip-version-check",
    ]
    # What conda does: the lines into a file beside environment.yml, and pip run from there. Not
    # conda's: --no-compile, and our own recent pip instead of the one in venv, to save 50 seconds.
    requirements = checkout / "condaenv.requirements.txt"
    requirements.write_text("\n".join(conda_pip_lines()), encoding="utf-8")
    installed = subprocess.run(
        [*pip, "install", "-U", "-r", requirements, "--exists-action=b", "--no-compile"],
        cwd=checkout,
        env=clean_environment(PIP_USER="0"),
        capture_output=True,
        text=True,
    )
    if (
        installed.returncode
        and OFFLINE.search(installed.stderr + installed.stdout)
        and not os.environ.get("CI")
    ):
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr[-3000:]

    run: list[str | Path] = [
        python,
        "-c",
        "import fwupdate_helpers.localhub as hub; print(hub.__file__)",
    ]
    imported = subprocess.run(
        run, cwd=venv, env=clean_environment(), capture_output=True, text=True
    )
    assert imported.returncode == 0, imported.stderr
    assert Path(imported.stdout.strip()).is_relative_to(checkout.resolve())
    assert {"fwupdate-device", "fwupdate-service"} <= {path.stem for path in scripts.iterdir()}

    listed = subprocess.run(
        [*pip, "list", "--format", "json"],
        check=True,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    there = {canonicalize_name(one["name"]): one["version"] for one in json.loads(listed.stdout)}
    pinned = pins()
    assert len(there) > 50
    for name in there.keys() - {"fwupdate-helpers"}:
        assert pinned.get(name) == [as_pinned(name, there[name])], name


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean_environment(), capture_output=True, text=True
    )


@needs_make
@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(checkout: Path, target: str) -> None:
    done = make(checkout, "--dry-run", target)
    assert done.returncode == 0, done.stderr


@needs_make
def test_make_alone_lists_every_target(checkout: Path) -> None:
    listed = [
        line.split()[0] for line in make(checkout).stdout.splitlines() if line.startswith("  ")
    ]
    assert sorted(listed) == sorted(TARGETS)


@needs_make
def test_nothing_is_tested_on_azure_unless_a_hub_is_set(checkout: Path) -> None:
    done = make(checkout, "test-azure")  # `conftest` has emptied the setting
    assert done.returncode == 2
    assert "FWUPDATE_IOTHUB_CONNECTION_STRING is not set" in done.stderr
    assert not (checkout / ".venv").exists()


@needs_make
@pytest.mark.parametrize(
    ("version_printed", "words"),
    [
        (None, "does not run"),
        ("3.9.18", "outside 3.10 to 3.13"),
        ("3.14.0", "outside 3.10 to 3.13"),
    ],
)
def test_an_unusable_python_is_named_with_what_to_install(
    checkout: Path, version_printed: str | None, words: str
) -> None:
    python = checkout / "some-python"
    if version_printed is not None:
        # Runs, but is neither in range nor able to say its series: enough of a Python for make.
        python.write_text(
            f'#!/bin/sh\n[ "$1" != --version ] || echo Python {version_printed}\n'
            'case "$*" in *exit*) exit 1;; esac\n'
        )
        python.chmod(0o755)
    done = make(checkout, "env", f"PYTHON={python}")

    assert done.returncode != 0
    assert f"PYTHON={python}" in done.stderr and words in done.stderr
    assert "Install one of 3.10 to 3.13" in done.stderr and "apt install python3" in done.stderr
    assert not (checkout / ".venv").exists()


@needs_make
def test_a_python_without_venv_is_named_with_what_to_install(checkout: Path) -> None:
    python = checkout / "some-python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    done = make(checkout, "env", f"PYTHON={python}")

    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


@needs_make
def test_an_environment_that_make_did_not_make_is_left_alone(checkout: Path) -> None:
    theirs = checkout / ".venv" / "precious"
    theirs.parent.mkdir()
    theirs.touch()
    done = make(checkout, "env", f"PYTHON={sys.executable}")

    assert done.returncode != 0 and "make did not make it" in done.stderr
    assert theirs.exists()


@needs_make
def test_a_finished_environment_is_not_set_up_again(checkout: Path) -> None:
    ready = finish_environment(checkout)
    assert make(checkout, "--question", "env").returncode == 0

    ready.write_text("/another/folder\n")
    assert make(checkout, "--question", "env").returncode == 1, "moved to another folder"

    ready.unlink()
    assert make(checkout, "--question", "env").returncode == 1, "cut short"

    finish_environment(checkout)
    os.utime(checkout / "constraints.txt", (ready.stat().st_mtime + 60,) * 2)
    assert make(checkout, "--question", "env").returncode == 1, "other pins"

    finish_environment(checkout)
    (checkout / ".venv" / "bin" / "python").unlink()
    assert make(checkout, "--question", "env").returncode == 1, "its Python is gone"


def finish_environment(checkout: Path) -> Path:
    """Makes `.venv` look as a finished `make env` leaves it."""
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    if not python.exists():
        python.symlink_to(sys.executable)
    ready = checkout / ".venv" / ".ready"
    ready.write_text(f"{checkout.resolve()}\n")
    return ready
