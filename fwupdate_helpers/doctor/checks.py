"""The checks in their order, and how one is run: a check that crashes becomes a line, too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from fwupdate_helpers.doctor import folders, hub, jupyter, network, packages, python
from fwupdate_helpers.doctor.machine import Machine
from fwupdate_helpers.doctor.report import (
    FAILURE,
    NOT_CHECKED,
    Finding,
    Line,
    failure,
    not_checked,
)

logger = logging.getLogger(__name__)

_PACKAGES = "Packages"
_HUBS_MODULES = ("aiohttp", "amqtt", "cryptography", "filelock", "lark", "platformdirs", "psutil")
_SDKS_MODULES = ("azure.iot.device", "azure.iot.hub", "uamqp", "msrest", "six", "tenacity")


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        id: A stable name for programs.
        title: A name for people.
        run: Does it.
        needs: The ids of checks without which it cannot succeed.
        modules: The third-party modules that it imports, or that a process it starts does.
    """

    id: str
    title: str
    run: Callable[[Machine], Finding]
    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


def all_checks(*, on_azure: bool) -> list[Check]:
    """Return the checks in the order in which they run."""
    setting = partial(hub.check_setting, on_azure=on_azure)
    return [
        Check("python", "Python", python.check_version),
        Check("interpreter", "Interpreter", python.check_interpreter),
        Check("packages", _PACKAGES, packages.check_packages, needs=("python",)),
        Check("jupyter", "JupyterLab", jupyter.check_jupyter, needs=("python",)),
        Check("disk", "Disk space", folders.check_disk),
        Check("hub-folder", "Folder of the hub", folders.check_hub_folder),
        Check("device-folder", "Folder of devices", folders.check_device_folder),
        Check("jupyter-folder", "Folder of Jupyter", folders.check_jupyter_folder),
        Check("temporary-folder", "Temporary folder", folders.check_temporary_folder),
        Check("notebook-folder", "Notebook folder", folders.check_notebook_folder),
        Check("proxy", "Proxy", network.check_proxy),
        Check("setting", "Setting of the hub", setting),
        Check("device-port", "Port 8883", network.check_device_port),
        Check("service-port", "Service port", network.check_service_port, needs=("device-port",)),
        Check(
            "hub",
            hub.HUB_TITLE,
            hub.check_local_hub,
            needs=("hub-folder", "device-port", "service-port"),
            modules=_HUBS_MODULES,
        ),
        Check("tls", "TLS", hub.check_tls),
        Check("clock", "Clock", hub.check_clock),
        Check(
            "update",
            "A real update",
            hub.check_update,
            needs=("hub", "tls"),
            modules=(*_HUBS_MODULES, *_SDKS_MODULES),
        ),
    ]


def run_check(check: Check, machine: Machine, earlier: Sequence[Line]) -> Line:
    """Run one check, unless one that it needs has failed; it never raises."""
    begun = time.perf_counter()
    finding = _blocked(check, earlier) or _guarded(check, machine, earlier)
    return Line(check.id, check.title, finding, time.perf_counter() - begun)


def _blocked(check: Check, earlier: Sequence[Line]) -> Finding | None:
    for line in earlier:
        if line.id in check.needs and line.state == FAILURE:
            return not_checked(f"needs '{line.title}'", line.title)
        if line.id in check.needs and line.state == NOT_CHECKED:  # the first cause is to be mended
            return Finding(NOT_CHECKED, f"needs '{line.title}'", line.finding.fix)
    missing = [name for name in check.modules if not _is_there(name)]
    return _without(", ".join(missing), earlier) if missing else None


def _without(module: str, earlier: Sequence[Line]) -> Finding:
    found = f"needs {module}, which cannot be imported"
    for line in earlier:
        if line.id == "packages" and line.state == NOT_CHECKED:
            return Finding(NOT_CHECKED, found, line.finding.fix)
    return not_checked(found, _PACKAGES)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # the package around it is missing
        return False


def _guarded(check: Check, machine: Machine, earlier: Sequence[Line]) -> Finding:
    try:
        return check.run(machine)
    except ModuleNotFoundError as error:
        return _without(error.name or "a package", earlier)
    except Exception as error:  # whatever it is, the other lines must be seen
        logger.debug("The check %s crashed.", check.id, exc_info=True)
        # Of other errors the text is not known to be free of secrets.
        told = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        return failure(
            f"The check itself failed with {type(error).__name__}{told}.",
            "Check again. If it stays so, report it to the authors of the kit with the output of:",
            f"{machine.python} -m fwupdate_helpers.doctor --json",
        )
