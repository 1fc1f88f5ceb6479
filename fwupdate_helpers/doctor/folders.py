"""Is there room on the disk, and may this user write where the kit and Jupyter write?"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fwupdate_helpers.doctor.machine import Machine, shown
from fwupdate_helpers.doctor.report import Finding, failure, ok, warning

_MIB: Final = 1024 * 1024
ENOUGH: Final = 1024 * _MIB
"""Bytes: the largest image (256 MiB) as it is built, published, downloaded and installed."""
NEEDED: Final = 100 * _MIB
"""Bytes: what the notebooks write, with room for the hub's database and logs."""
_PROBE: Final = b"\0" * 65536
_AGAIN: Final = "and start JupyterLab from the same terminal:"


def check_disk(machine: Machine) -> Finding:
    """Check the free bytes where the hub, its images, the devices and temporary files lie."""
    free = {
        name: machine.free_bytes(existing(folder))
        for name, folder in _places()
        if folder is not None
    }
    least = min(free, key=lambda name: free[name])
    found = f"{free[least] / 1e9:.1f} GB free in the {least}"
    if free[least] >= ENOUGH:
        return ok(found)
    folder = dict(_places())[least]
    fix = f"Free some room on the disk of {shown(folder or Path())}. Old images of the hub go with:"
    reset = f"{machine.python} -m fwupdate_helpers.localhub reset"
    if free[least] >= NEEDED:
        return warning(f"{found}; a large firmware image may not fit.", fix, reset)
    return failure(f"{free[least] / 1e6:.0f} MB free in the {least}; too little.", fix, reset)


def _places() -> Iterator[tuple[str, Path | None]]:
    yield "hub's folder", _hub_folder()
    yield "devices' folder", _device_folder()
    try:
        yield "temporary folder", Path(tempfile.gettempdir())
    except FileNotFoundError:  # another line tells
        yield "temporary folder", None


def _hub_folder() -> Path:
    from fwupdate_helpers.localhub.statedir import StateDir

    return StateDir.default().path


def _device_folder() -> Path:
    from fwupdate_helpers.app_boards import devices_folder

    return devices_folder()


def check_hub_folder(machine: Machine) -> Finding:
    """Check that the local hub may have its folder, and to itself."""
    from fwupdate_helpers.localhub.errors import LocalHubError
    from fwupdate_helpers.localhub.statedir import STATE_DIR_VARIABLE, StateDir

    state = StateDir.default()
    try:
        state.prepare()
        probe(state.path)
    except LocalHubError as error:
        found = str(error.happened).replace(str(state.path), shown(state.path))
    except OSError as error:
        found = _cannot_write(state.path, error)
    else:
        return ok(shown(state.path))
    variables = {STATE_DIR_VARIABLE: machine.spare_folder("hub")}
    return failure(found, f"Give it another folder, {_AGAIN}", *machine.set_variables(**variables))


def check_device_folder(machine: Machine) -> Finding:
    """Check the folder of the devices' flash chips and of the demo signing key."""
    from fwupdate_helpers.app_boards import DEVICES_VARIABLE

    variables = {DEVICES_VARIABLE: machine.spare_folder("devices")}
    return _check(machine, _device_folder(), f"Give it another folder, {_AGAIN}", variables)


def check_jupyter_folder(machine: Machine) -> Finding:
    """Check the folder where JupyterLab keeps how to reach its kernels; it starts none without."""
    from jupyter_core.paths import jupyter_runtime_dir

    names = ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")
    folder = Path(machine.spare_folder("jupyter"))
    variables = {name: str(folder / name.lower().partition("_dir")[0]) for name in names}
    if "JUPYTER_RUNTIME_DIR" in machine.environ:
        variables["JUPYTER_RUNTIME_DIR"] = str(folder / "runtime")
    fix = f"Give Jupyter other folders, {_AGAIN}"
    return _check(machine, Path(jupyter_runtime_dir()), fix, variables)


def check_temporary_folder(machine: Machine) -> Finding:
    """Check the folder for temporary files, which Python chooses as one that it can write."""
    name = "TEMP" if machine.is_windows else "TMPDIR"
    variables = {name: machine.spare_folder("temporary")}
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return failure(
            "No folder for temporary files can be written.",
            f"Make one of your own, {_AGAIN}",
            *machine.set_variables(**variables),
        )
    return _check(machine, folder, f"Choose another one, {_AGAIN}", variables)


def check_notebook_folder(machine: Machine) -> Finding:
    """Check that notebooks can be saved; they can be read and run without."""
    folder = machine.checkout / "notebooks"
    if not folder.is_dir():
        folder = machine.folder
    try:
        probe(folder)
    except OSError as error:
        copy = Path(machine.spare_folder("notebooks"))
        verb = "Copy-Item -Recurse" if machine.is_windows else "cp -R"
        return warning(
            f"{_cannot_write(folder, error)} Notebooks run, and cannot be saved.",
            "Work in a copy:",
            f"{verb} {machine.typed(folder)} {machine.typed(copy)}",
            f"{machine.python} -m jupyterlab {machine.typed(copy)}",
        )
    return ok(shown(folder))


def _check(machine: Machine, folder: Path, fix: str, variables: dict[str, str]) -> Finding:
    try:
        probe(folder)
    except OSError as error:
        found = _cannot_write(folder, error)
        return failure(found, fix, *machine.set_variables(**variables))
    return ok(shown(folder))


def _cannot_write(folder: Path, error: OSError) -> str:
    return f"{shown(folder)} cannot be written: {error.strerror or type(error).__name__}."


def existing(folder: Path) -> Path:
    """Return `folder`, or the folder nearest to it in which it would be made."""
    for one in (folder, *folder.parents):
        if os.path.isdir(one):  # noqa: PTH112  # Path.is_dir raises where one may not look
            return one
    return folder


def probe(folder: Path) -> None:
    """Write a file where `folder` is or would be made, and delete it.

    Raises:
        OSError: That cannot be done.
    """
    file = existing(folder) / f".fwupdate-probe-{secrets.token_hex(4)}"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_PROBE)
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        file.unlink()
