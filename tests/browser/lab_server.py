"""JupyterLab as `make lab` starts it, for a user of its own and in a copy of the kit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import IO

ROOT = Path(__file__).parents[2]
PRINTED_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/lab\S*\?token=\w+")
LEFT_OVER = shutil.ignore_patterns(".ipynb_checkpoints")
# What an outer make, or the person who runs the tests, would decide for the inner make.
FROM_OUTSIDE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "FIRST_NOTEBOOK", "LAYOUT", "JUPYTER_TOKEN"}


# The copy's .venv is the one that runs the tests; make must not set it up anew.
MAKE = ("make", "--old-file=.venv/.ready")
# Any free port; and `window.jupyterapp`, which LabPage asks.
LAB_ARGS = "--no-browser --ServerApp.port=0 --LabApp.expose_app_in_browser=True"


@dataclass(frozen=True)
class LabServer:
    """A running JupyterLab: the address it printed (token included) and the folder it shows."""

    address: str
    notebooks: Path


def copy_kit(home: Path) -> Path:
    """Copy what `make lab` needs into `home`, unless it is there; return the notebooks' folder.

    A test that changes a notebook (`set_pace`) calls this before `make_lab(home)`.
    """
    notebooks = home / "notebooks"
    if not notebooks.exists():
        shutil.copytree(ROOT / "notebooks", notebooks, ignore=LEFT_OVER)
        shutil.copytree(ROOT / "jupyter", home / "jupyter")
        shutil.copy(ROOT / "Makefile", home)
        (home / ".venv").symlink_to(sys.prefix)
    return notebooks


def set_pace(notebook: Path, stage_seconds: float) -> None:
    """Let the stages of the simulated updates in `notebook` take `stage_seconds` each."""
    text = notebook.read_text(encoding="utf-8")
    text, count = re.subn(r"stage_seconds = [0-9.]+", f"stage_seconds = {stage_seconds}", text)
    assert count == 1
    notebook.write_text(text, encoding="utf-8")


@contextmanager
def make_lab(home: Path, *variables: str) -> Iterator[LabServer]:
    """Run `make lab` for a user whose home and copy of the kit is `home`; stop it at the end.

    Twice with the same `home` is the same user, who comes back:

        with make_lab(tmp_path, "FIRST_NOTEBOOK=02_firmware_update.ipynb") as server:
            ...  # server.address is what `make lab` printed
    """
    notebooks = copy_kit(home)
    server = subprocess.Popen(
        [*MAKE, "lab", f"LAB_ARGS={LAB_ARGS}", *variables],
        cwd=home,
        env=environment_of(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # make, its shell and JupyterLab are stopped together
    )
    try:
        yield LabServer(wait_for_address(server, home / "lab.log"), notebooks)
    finally:
        stop(server)


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment of a user who has never run JupyterLab before."""
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    return inherited | {
        "JUPYTER_CONFIG_DIR": str(home / "jupyter-config"),
        "JUPYTER_DATA_DIR": str(home / "jupyter-data"),
        "JUPYTERLAB_WORKSPACES_DIR": "",
    }


def wait_for_address(server: subprocess.Popen[str], log: Path) -> str:
    """Return the address that JupyterLab prints; what it prints goes to `log` until it ends."""
    found: Queue[str] = Queue()
    assert server.stdout is not None
    copier = threading.Thread(
        target=copy_lines, args=(server.stdout, log, found), name="lab-log", daemon=True
    )
    copier.start()
    address = found.get(timeout=60)
    assert address, f"JupyterLab ended: {log.read_text(encoding='utf-8')}"
    return address


def copy_lines(lines: IO[str], log: Path, found: Queue[str]) -> None:
    with log.open("w", encoding="utf-8") as copy:
        for line in lines:
            copy.write(line)
            copy.flush()
            address = PRINTED_ADDRESS.search(line)
            if address:
                found.put(address.group())
    found.put("")


def stop(server: subprocess.Popen[str]) -> None:
    """End JupyterLab as Ctrl+C twice does; it shuts its kernels down."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        raise
