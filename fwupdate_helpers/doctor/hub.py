"""Does the hub work: its setting, the local hub, TLS to it, the clock, and a real update?"""

from __future__ import annotations

import http.client
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.doctor.machine import Machine, shown
from fwupdate_helpers.doctor.report import Finding, failure, not_checked, ok, warning

if TYPE_CHECKING:
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.localhub.errors import LocalHubError
    from fwupdate_helpers.localhub.statedir import StateDir

HUB_TITLE: Final = "Local hub"
_START_SECONDS: Final = 8.0
_UPDATE_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 1.0
_STAGE_SECONDS: Final = 0.02
_SANE_YEARS: Final = range(2025, 2046)
_CLOCKS_APART: Final = 5.0
"""Seconds that the hub's clock may differ, a slow answer included."""


def check_setting(machine: Machine, *, on_azure: bool = False) -> Finding:
    """Tell which hub the notebooks will use; with `on_azure`, that the setting can be read.

    Nothing here reaches Azure, and no part of the connection string is shown.
    """
    from fwupdate_helpers.connection_string import read_service_string
    from fwupdate_helpers.errors import FirmwareUpdateError, InvalidConnectionString
    from fwupdate_helpers.settings import CONNECTION_STRING_VARIABLE as NAME
    from fwupdate_helpers.settings import read_setting

    given = read_setting(NAME)
    if not on_azure:
        return _told(machine, NAME) if given else ok("the local hub on this machine; no account")
    example = machine.set_variables(**{NAME: "..."})
    if not given:
        fix = "Put a service connection string of your hub in its place:"
        return failure(f"{NAME} is not set.", fix, *example)
    try:
        read_service_string(given)
        way = _way()
    except InvalidConnectionString as error:
        return failure(f"{NAME} cannot be used.", str(error), *example)
    except FirmwareUpdateError as error:
        return failure("The port of devices is not set right.", str(error))
    return ok(f"{NAME} holds a service connection string. Azure was not contacted. {way}")


def _way() -> str:
    """Tell which port devices will use: many networks let only 443 out."""
    from fwupdate_helpers.websockets import WEBSOCKETS_VARIABLE, uses_websockets

    if uses_websockets():
        return "Devices will use port 443 (WebSockets)."
    return f"Devices will use port 8883; where it is blocked, set {WEBSOCKETS_VARIABLE}=1."


def _told(machine: Machine, name: str) -> Finding:
    return warning(
        f"{name} is set: the notebooks will work on that IoT Hub on Azure. This check does not "
        "contact Azure, and looks at the local hub only.",
        "To have the setting read, add --on-azure. To use the local hub, set it to nothing:",
        f'$env:{name} = " "' if machine.is_windows else f"export {name}=",
    )


def check_local_hub(machine: Machine) -> Finding:
    """Check that the local hub answers; start it when it does not run."""
    from fwupdate_helpers.errors import FirmwareUpdateError
    from fwupdate_helpers.localhub import background
    from fwupdate_helpers.localhub.errors import LocalHubError
    from fwupdate_helpers.localhub.statedir import read_json
    from fwupdate_helpers.websockets import WEBSOCKETS_VARIABLE, check_port_443

    state = _state()
    before = (read_json(state.running_file) or {}).get("pid")
    try:
        running = background.ensure_running(state, start_timeout=_START_SECONDS)
    except LocalHubError as error:
        return _no_hub(machine, error, state)
    try:
        check_port_443(running)
    except FirmwareUpdateError as error:
        to_8883 = machine.set_variables(**{WEBSOCKETS_VARIABLE: "0"})
        return failure(str(error), "To let devices use port 8883:", *to_8883)
    how = "" if running.pid == before else "; started for this check, it stops by itself"
    return ok(f"answers on {running.device_host}, process {running.pid}{how}")


def _no_hub(machine: Machine, error: LocalHubError, state: StateDir) -> Finding:
    from fwupdate_helpers.localhub.errors import HubSilent

    found = error.happened.replace(str(state.path), shown(state.path))
    if isinstance(error, HubSilent) and error.pid:
        return failure(
            found, "End its process, then check again:", machine.kill(error.pid, hangs=True)
        )
    reset = f"{machine.python} -m fwupdate_helpers.localhub reset"
    fix = "Check again. Should it fail again, make a hub as new (its devices go):"
    return failure(found, error.fix or fix, *(() if error.fix else (reset,)))


def _state() -> StateDir:
    from fwupdate_helpers.localhub.statedir import StateDir

    return StateDir.default()


def check_tls(machine: Machine) -> Finding:
    """Check that TLS handshakes with both of the hub's ports succeed, with the hub's CA alone."""
    from fwupdate_helpers.localhub import tls
    from fwupdate_helpers.localhub.ports import DEVICE_PORT
    from fwupdate_helpers.localhub.statedir import read_json

    state = _state()
    running = read_json(state.running_file)
    nobody = not_checked(f"{ssl.OPENSSL_VERSION}; no local hub runs to try it with", HUB_TITLE)
    if running is None:
        return nobody
    host, service_port = str(running["device_host"]), int(running["service_port"])
    try:
        context = tls.client_context(state.ca_file)
        services = _handshake(context, host, service_port)
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # all that azure-iot-device speaks
        devices = _handshake(context, host, DEVICE_PORT)
    except (ConnectionRefusedError, TimeoutError):  # a hub that was killed, or hangs
        return nobody
    except OSError as error:
        return failure(
            f"{ssl.OPENSSL_VERSION}: no handshake with the local hub: {_reason(error)}.",
            "Let no virus scanner or VPN read what goes to 127.0.0.1. If there is none, let the "
            "hub make new certificates (its devices go, too):",
            f"{machine.python} -m fwupdate_helpers.localhub reset",
        )
    return ok(f"{ssl.OPENSSL_VERSION}; {devices} and {services}, with the hub's own CA")


def _handshake(context: ssl.SSLContext, host: str, port: int) -> str:
    plain = socket.create_connection((host, port), timeout=_ANSWER_SECONDS)
    # Closes `plain`, also when the handshake fails.
    with context.wrap_socket(plain, server_hostname=host) as secure:
        return f"{secure.version()} on port {port}"


def _reason(error: OSError) -> str:
    told = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error.strerror
    return f"{type(error).__name__} ({told})" if told else type(error).__name__


def check_clock(machine: Machine) -> Finding:
    """Check that the clock tells a sane year, and the time that the local hub has.

    Tokens and certificates are valid for a time, so a wrong clock means refused connections.
    """
    now = machine.now()
    told = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    fix = "Set the clock, or let the network set it:"
    if now.year not in _SANE_YEARS:
        return failure(f"{told}: the year cannot be right.", fix, _set_clock(machine))
    hubs = _hub_date()
    if hubs is None:
        return ok(f"{told} (no local hub to compare it with)")
    apart = abs((hubs - machine.now()).total_seconds())
    if apart > _CLOCKS_APART:
        return failure(f"{told}, {apart:.0f} s from the hub's clock.", fix, _set_clock(machine))
    return ok(f"{told}, as the hub's")


def _set_clock(machine: Machine) -> str:
    if machine.is_windows:
        return "w32tm /resync"
    if machine.system == "darwin":
        return "sudo sntp -sS time.apple.com"
    return "sudo timedatectl set-ntp true"


def _hub_date() -> datetime | None:
    """Return the date in an answer of the local hub, or None when none answers."""
    from fwupdate_helpers.localhub import background, tls

    running = background.find(_state(), timeout=_ANSWER_SECONDS)
    if running is None:
        return None
    connection = http.client.HTTPSConnection(
        running.device_host,
        running.service_port,
        timeout=_ANSWER_SECONDS,
        context=tls.client_context(running.ca_file),
    )
    try:
        connection.request("GET", "/")
        date = connection.getresponse().getheader("Date")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return None if date is None else parsedate_to_datetime(date).astimezone(timezone.utc)


def check_update(machine: Machine) -> Finding:
    """Do one real update on the local hub: identity, device, direct method, twin, clean-up."""
    from fwupdate_helpers.errors import FirmwareUpdateError

    begun = time.perf_counter()
    try:
        status = _update(_UPDATE_SECONDS)
    except FirmwareUpdateError as error:
        log = shown(_state().log_file)
        again = f"{machine.python} -m fwupdate_helpers.localhub stop"
        fix = f"Start the hub anew and check again; should it fail again, its log is {log}."
        return failure(f"{type(error).__name__}: {error}", fix, again)
    seconds = time.perf_counter() - begun
    return ok(f"{status} in {seconds:.1f} s, by a device of its own that is deleted again")


def _update(seconds: float) -> str:
    from fwupdate_helpers import contract
    from fwupdate_helpers.service import invoke_firmware_update, wait_for_update

    deadline = time.monotonic() + seconds
    with _local_hub() as hub, _device(hub, seconds) as device:
        device_id = device.device_id
        update = invoke_firmware_update(hub.registry, device_id, response_timeout=5)
        left = max(deadline - time.monotonic(), 0.1)
        twin = wait_for_update(
            hub.registry, device_id, update.update_id, interval=_STAGE_SECONDS, timeout=left
        )
        return str(twin.properties.reported[contract.STATUS])


@contextmanager
def _local_hub() -> Iterator[Hub]:
    from fwupdate_helpers.errors import HubUnavailable
    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.localhub import background

    running = background.find(_state())
    if running is None:
        raise HubUnavailable("The local hub has stopped meanwhile. Check again.")
    with Hub(
        kind="local",
        connection_string=running.connection_string,
        device_host=running.device_host,
        ca_file=Path(running.ca_file),
    ) as hub:
        yield hub


@contextmanager
def _device(hub: Hub, seconds: float) -> Iterator[SimulatedDevice]:
    """Run a device with an id of its own, no longer than `seconds`; delete its identity then."""
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.errors import HubUnavailable

    device_id = f"doctor-{secrets.token_hex(6)}"
    with ExitStack() as stack:
        stack.callback(hub.delete_device, device_id)
        string = hub.device_connection_string(device_id)
        options: dict[str, Any] = hub.device_options
        device = SimulatedDevice(string, stage_seconds=_STAGE_SECONDS, **options)
        stack.callback(device.stop)
        # `start` waits as long as a person would; nobody waits so long for a check.
        limit = threading.Timer(seconds, device.stop)
        stack.callback(limit.join)
        stack.callback(limit.cancel)
        limit.start()
        device.start()
        if limit.finished.is_set() or not device.is_running:
            raise HubUnavailable(f"The device was not connected after {seconds:.0f} s.")
        yield device
