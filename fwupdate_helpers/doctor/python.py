"""Is it a Python that the kit can run on, and the one that the notebooks are meant to run on?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from fwupdate_helpers.doctor.machine import Machine, shown
from fwupdate_helpers.doctor.report import Finding, failure, ok, warning

OLDEST: Final = (3, 10)
NEWEST: Final = (3, 13)
_ADVISED: Final = "3.12"
_SERVERS: Final = frozenset(
    {"jupyter", "jupyter-lab", "jupyter-labhub", "jupyter-notebook", "jupyterlab", "notebook"}
    | {"jupyter-server", "jupyter_server", "jupyterhub-singleuser"}
)


def check_version(machine: Machine) -> Finding:
    """Check that Python is in the range that the SDKs have packages for."""
    version = ".".join(map(str, machine.version))
    if OLDEST <= machine.version[:2] <= NEWEST:
        return ok(version)
    if machine.version[:2] > NEWEST:
        reason = (
            f"too new. azure-iot-hub imports uamqp, and that has no wheels (ready-built packages) "
            f"for Python {machine.version[0]}.{machine.version[1]}"
        )
    else:
        reason = "too old. The Azure SDKs, JupyterLab and the kit need 3.10 or later"
    fix, commands = _right_python(machine)
    return failure(f"{version} is {reason}.", fix, *machine.in_checkout(*commands))


def _right_python(machine: Machine) -> tuple[str, tuple[str, ...]]:
    if machine.is_conda:
        make_one = ("conda env create -f environment.yml", "conda activate fwupdate")
        return "Make an environment with the Python that environment.yml names:", make_one
    if machine.is_windows:
        return f"Install Python {_ADVISED} beside it, and make an environment with that one:", (
            f"winget install -e --id Python.Python.{_ADVISED}",
            f"py -{_ADVISED} -m venv env",
            r"env\Scripts\Activate.ps1",
            "python -m pip install -r requirements.txt",
        )
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        if machine.runs(f"python3.{minor}"):
            return "A Python that fits is there. Use it:", (f"make lab PYTHON=python3.{minor}",)
    install = f"sudo apt install python{_ADVISED} python{_ADVISED}-venv"
    if machine.system == "darwin":
        install = f"brew install python@{_ADVISED}"
    fix = "Install one of 3.10 to 3.13 beside it (or use conda, see README.md), and name it:"
    return fix, (install, f"make lab PYTHON=python{_ADVISED}")


def check_interpreter(machine: Machine) -> Finding:
    """Check that the kit imported is that of the working folder, in JupyterLab's own environment.

    A kernel of another environment runs, and then lacks the packages or the widgets that one has
    installed for JupyterLab.
    """
    other = _clone_around(machine.folder)
    if other is not None and not other.samefile(machine.checkout):
        return failure(
            f"fwupdate_helpers comes from {shown(machine.checkout)}, although this folder belongs "
            f"to another copy of the kit, {shown(other)}.",
            "Install this copy, or open the notebooks of the other one:",
            f"cd {machine.typed(other)}",
            f"{machine.python} -m pip install -r requirements.txt",
        )
    server = jupyter_prefix()
    if server is not None and server.resolve() != machine.prefix.resolve():
        return warning(
            f"The kernel runs in {shown(machine.prefix)}, JupyterLab in {shown(server)}.",
            "Choose the kernel 'Python 3 (ipykernel)' in the menu Kernel, Change Kernel; or start "
            "JupyterLab from the kernel's environment:",
            *machine.in_checkout(f"{machine.python} -m jupyterlab notebooks"),
        )
    where = "the environment of JupyterLab" if server else "the kit in " + shown(machine.checkout)
    return ok(f"{shown(machine.executable)}, with {where}")


def _clone_around(folder: Path) -> Path | None:
    for one in (folder, *folder.parents):
        if (one / "fwupdate_helpers" / "__init__.py").is_file():
            return one
    return None


def jupyter_prefix() -> Path | None:
    """Return the environment of the JupyterLab that started this process; None if unknown.

    Outside a kernel there is none, and other programs (an editor, a JupyterHub's spawner) cannot
    be recognised.
    """
    if "ipykernel" not in sys.modules:
        return None
    import psutil

    try:
        for process in psutil.Process().parents():
            command = process.cmdline()
            if any(Path(word).stem in _SERVERS for word in command[1:3]):
                return environment_of(Path(process.cwd(), command[0]))
    except psutil.Error:  # another user's process
        return None
    return None


def environment_of(python: Path) -> Path | None:
    """Return the folder of the environment that a Python program belongs to; None if unknown."""
    for folder in (python.parent, python.parent.parent):
        if (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir():
            return folder
    return None
