"""The Pythons and systems that the kit is tested on: nox, CI, Binder, the dev container."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.unit.test_project import ROOT, SERIES, TARGETS, conda_python, load_file

Json = dict[str, Any]

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
CONTAINER = ROOT / ".devcontainer" / "devcontainer.json"
RUNNERS = {
    "linux, x86-64": r"ubuntu-\d\d\.\d\d",
    "linux, aarch64": r"ubuntu-\d\d\.\d\d-arm",
    "macOS, Intel": r"macos-\d\d-intel",
    "macOS, Apple Silicon": r"macos-\d\d",
    "Windows": r"windows-\d{4}",
}


# -- make test-all ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noxfile() -> ModuleType:
    return load_file(ROOT / "noxfile.py")


def fake_python(program: Path, series: str, *, status: int = 0) -> Path:
    """Make a program that says that it is a Python, or fails as a pyenv shim does."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho {series} {program}\nexit {status}\n", encoding="ascii")
    program.chmod(0o755)
    return program


posix = pytest.mark.skipif(sys.platform == "win32", reason="the fakes are shell scripts")


@posix
def test_a_python_is_found_on_path_before_pyenvs_and_a_failing_shim_is_passed_over(
    noxfile: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert noxfile.find_python("3.12") is None
    versions = tmp_path / "pyenv" / "versions"
    fake_python(versions / "3.12.9" / "bin" / "python", "3.12")
    fake_python(versions / "3.12.10t" / "bin" / "python", "3.12")  # without the GIL
    newest = fake_python(versions / "3.12.10" / "bin" / "python", "3.12")
    shim = fake_python(tmp_path / "bin" / "python3.12", "3.12", status=127)
    assert noxfile.find_python("3.12") == str(newest)
    fake_python(shim, "3.12")
    assert noxfile.find_python("3.12") == str(shim)
    fake_python(shim, "3.11")  # lies
    assert noxfile.find_python("3.12") == str(newest)


def test_the_python_that_runs_this_is_found(noxfile: ModuleType) -> None:
    assert noxfile.find_python(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert noxfile.find_python("3.99") is None


def test_there_is_a_session_for_every_python_and_one_for_the_stand_in(noxfile: ModuleType) -> None:
    assert list(noxfile.SERIES) == SERIES
    assert (ROOT / noxfile.STAND_IN / "pyproject.toml").is_file()
    assert callable(noxfile.tests_standin)


# -- CI ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workflow() -> Json:
    loaded: Json = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    return loaded


def steps(workflow: Json) -> list[Json]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_ci_runs_every_supported_python_on_every_system(workflow: Json) -> None:
    tests = workflow["jobs"]["tests"]
    matrix = tests["strategy"]["matrix"]
    assert matrix["python"] == SERIES
    assert tests["strategy"]["fail-fast"] is False
    assert tests["runs-on"] == "${{ matrix.os }}"
    for system, runner in RUNNERS.items():
        assert [one for one in matrix["os"] if re.fullmatch(runner, one)], system
    assert len(matrix["os"]) == len(RUNNERS)
    assert not matrix.keys() - {"os", "python"}, "nothing is excluded"


def test_ci_may_only_read_and_knows_no_secret(workflow: Json) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert not [job for job in workflow["jobs"].values() if "permissions" in job]
    assert "secrets" not in WORKFLOW.read_text("utf-8")
    checkouts = [one for one in steps(workflow) if one.get("uses", "").startswith("actions/checko")]
    assert [one["with"]["persist-credentials"] for one in checkouts] == [False, False]


def test_ci_uses_actions_at_one_commit_and_every_job_ends(workflow: Json) -> None:
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action)
    lines = [line for line in WORKFLOW.read_text("utf-8").splitlines() if "uses:" in line]
    assert all(re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in lines)
    assert all(0 < job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())


def test_ci_runs_targets_that_make_has(workflow: Json) -> None:
    commands = [step["run"] for step in steps(workflow) if step.get("run", "").startswith("make ")]
    targets = [word for one in commands for word in one.split()[1:] if word.isidentifier()]
    assert {"lint", "demo", "test"} <= set(targets) <= set(TARGETS)


# -- one click --------------------------------------------------------------------------------


def test_a_dev_container_and_binder_have_the_same_python() -> None:
    container = json.loads(CONTAINER.read_text("utf-8"))
    name, _, tag = container["image"].partition(":")
    assert (name, tag.partition("-")[0]) == ("python", conda_python())
    assert conda_python() in SERIES


def test_a_dev_container_is_set_up_once_by_make() -> None:
    container = json.loads(CONTAINER.read_text("utf-8"))
    make, target = container["postCreateCommand"].split()
    assert (make, target) == ("make", "env") and target in TARGETS
    settings = container["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    assert not container.keys() & {"forwardPorts", "appPort", "runArgs", "privileged"}


@pytest.mark.parametrize(
    "name",
    [
        "binder",
        ".binder",
        "Dockerfile",
        "postBuild",
        "runtime.txt",
        "apt.txt",
        "setup.py",
        "Pipfile",
    ],
)
def test_nothing_takes_binder_away_from_environment_yml(name: str) -> None:
    # repo2docker's rules: a folder binder/ hides what is in the root, a Dockerfile all the rest.
    assert (ROOT / "environment.yml").is_file()
    assert not (ROOT / name).exists()
