"""Can the local hub have its ports, and do programs reach it past a proxy?"""

from __future__ import annotations

import ipaddress
from contextlib import closing
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.doctor.machine import Machine
from fwupdate_helpers.doctor.report import Finding, failure, ok, warning

if TYPE_CHECKING:
    from fwupdate_helpers.localhub.background import RunningHub
    from fwupdate_helpers.localhub.errors import LocalHubError

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK: Final = "127.0.0.1"
_ANSWER_SECONDS: Final = 1.0


def check_device_port(machine: Machine) -> Finding:
    """Check that port 8883 is free on a loopback address, or that the hub has it."""
    from fwupdate_helpers.localhub import ports
    from fwupdate_helpers.localhub.errors import LocalHubError

    if running := _running_hub():
        return ok(f"the local hub listens on {running.device_host}")
    address, _ = _known_place()
    try:
        with ports.bind_device(known=address) as listener:
            return ok(f"free on {listener.getsockname()[0]}")
    except LocalHubError as error:
        return _taken(machine, error)


def check_service_port(machine: Machine) -> Finding:
    """Check that a service port is free on the hub's address, or that the hub has one."""
    from fwupdate_helpers.localhub import ports
    from fwupdate_helpers.localhub.errors import LocalHubError

    if running := _running_hub():
        return ok(f"the local hub listens on {running.device_host}, port {running.service_port}")
    address, port = _known_place()
    try:
        both = ports.bind(known_address=address, known_port=port)
    except LocalHubError as error:
        return _taken(machine, error)
    with closing(both):
        return ok(f"{both.service_port} is free on {both.address}")


def _running_hub() -> RunningHub | None:
    from fwupdate_helpers.localhub import background
    from fwupdate_helpers.localhub.statedir import StateDir

    return background.find(StateDir.default(), timeout=_ANSWER_SECONDS)


def _known_place() -> tuple[str | None, int | None]:
    """Return the address and the service port of the hub's last run."""
    from fwupdate_helpers.localhub.config import load_config
    from fwupdate_helpers.localhub.statedir import StateDir

    config = load_config(StateDir.default())
    return config.get("address"), config.get("service_port")


def _taken(machine: Machine, error: LocalHubError) -> Finding:
    return failure(error.happened, error.fix, *_stop_commands(machine, error))


def _stop_commands(machine: Machine, error: LocalHubError) -> tuple[str, ...]:
    from fwupdate_helpers.localhub.errors import PortTaken

    if not isinstance(error, PortTaken):
        return ()
    if error.owner is None and machine.is_windows:
        return (f"Get-NetTCPConnection -State Listen -LocalPort {error.port}",)
    if error.owner is None:
        return (f"sudo lsof -nP -iTCP:{error.port} -sTCP:LISTEN",)
    if machine.system == "linux" and error.owner.name == "mosquitto":
        return ("sudo systemctl stop mosquitto",)
    return (machine.kill(error.owner.pid),)


def check_proxy(machine: Machine) -> Finding:
    """Check that no variable sends programs to a proxy when they mean this machine.

    The kit's own clients go past it; another program, or a client that one makes by hand, may not.
    The variables' values may hold a password, and are not shown.
    """
    given = {name: value for name, value in machine.environ.items() if value}
    proxies = [name for name in given if name.lower() in _PROXIES]
    if not proxies:
        return ok("no proxy is set")
    # Where both are set, Python and curl read the one in small letters.
    name = next((name for name in ("no_proxy", "NO_PROXY") if name in given), "NO_PROXY")
    if _excludes_loopback(given.get(name, "")):
        return ok(f"{' and '.join(proxies)}, not for {_LOOPBACK}")
    return warning(
        f"{' and '.join(proxies)} would also catch {_LOOPBACK}. The kit's clients go past it; "
        "other programs may not.",
        "Take this machine out, and start JupyterLab from the same terminal:",
        _exclude(machine, name, name in given),
    )


def _exclude(machine: Machine, name: str, is_given: bool) -> str:
    own = f"{_LOOPBACK},localhost"
    if machine.is_windows:
        return f'$env:{name} = "{f"$env:{name}," if is_given else ""}{own}"'
    return f'export {name}="${name},{own}"' if is_given else f"export {name}={own}"


def _excludes_loopback(no_proxy: str) -> bool:
    return any(_covers(entry.strip()) for entry in no_proxy.split(","))


def _covers(entry: str) -> bool:
    if entry in ("*", _LOOPBACK):
        return True
    try:
        return ipaddress.ip_address(_LOOPBACK) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
