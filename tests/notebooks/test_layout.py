"""When `make lab` imports the kit's JupyterLab layout, and when it leaves the user's own alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser.lab_server import MAKE, copy_kit, environment_of

OF_THE_USER = '{"data": {"mine": 1}, "metadata": {"id": "fwupdate"}}'

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """Return a copy of the kit, in a path with a space, of a user who has not run it yet."""
    copy_kit(tmp_path / "the kit")
    return tmp_path / "the kit"


def make_layout(kit: Path, *variables: str, **environment: str) -> str:
    done = subprocess.run(
        [*MAKE, "layout", *variables],
        cwd=kit,
        env=environment_of(kit) | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def saved_layout(kit: Path) -> Path:
    (found,) = (kit / "jupyter-config" / "lab" / "workspaces").iterdir()
    return found


def is_ours(layout: Path, kit: Path) -> bool:
    ours = json.loads((kit / "jupyter" / "workspace.json").read_text("utf-8"))
    return bool(json.loads(layout.read_text("utf-8"))["data"] == ours["data"])


def test_a_new_user_gets_the_layout_and_keeps_what_becomes_of_it(kit: Path) -> None:
    make_layout(kit)
    layout = saved_layout(kit)
    assert is_ours(layout, kit)

    layout.write_text(OF_THE_USER)
    make_layout(kit)
    assert layout.read_text() == OF_THE_USER

    make_layout(kit, "LAYOUT=new")
    assert is_ours(layout, kit), "asked for"

    layout.write_text(OF_THE_USER)
    before_ours = (kit / "jupyter" / "workspace.json").stat().st_mtime - 60
    os.utime(layout, (before_ours, before_ours))
    make_layout(kit)
    assert is_ours(layout, kit), "the user's is of an older kit, where other cells had its numbers"


def test_where_no_layout_can_be_saved_make_says_so_and_goes_on(kit: Path) -> None:
    (kit / "a-file").touch()
    folder = kit / "a-file" / "workspaces"
    said = make_layout(kit, JUPYTERLAB_WORKSPACES_DIR=str(folder))
    assert f"{folder} cannot be written to" in said
