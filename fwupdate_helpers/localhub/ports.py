"""Which loopback address and ports the hub listens on."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from dataclasses import dataclass
from typing import Final

from fwupdate_helpers.localhub.errors import LocalHubError, PortOwner, PortTaken

DEVICE_PORT: Final = 8883
"""MQTT over TLS. azure-iot-device knows no other port."""
SERVICE_PORT: Final = 8443
"""HTTPS. Port 443 would need rights on Linux."""
HTTPS_PORT: Final = 443
"""Where an IoT Hub has HTTPS, and MQTT over WebSockets: azure-iot-device knows no other port."""
_SERVICE_PORTS_TRIED = 100
_ADDRESSES_TRIED = 30
_SHARING: Final = ("darwin", "win32")
"""Systems that give a port on one address to a program while another one listens on all addresses,
and would lead that one's clients to us."""
_ANSWER_SECONDS: Final = 0.3
_IN_USE = {errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)}
_REFUSED = {errno.EACCES, getattr(errno, "WSAEACCES", errno.EACCES)}
_NO_RIGHTS: Final = (
    "Let users have it (on Linux 'sudo sysctl net.ipv4.ip_unprivileged_port_start=443'), then stop "
    "the hub with 'python -m fwupdate_helpers.localhub stop'; the next start takes it."
)


@dataclass(frozen=True)
class Listeners:
    """Bound sockets on one loopback address.

    Attributes:
        device: Port 8883.
        service: The service port.
        websocket: Port 443, where the hub may have it and it is not the service port.
        websocket_problem: Why port 443 cannot be had, and what to do; None when it is had.
    """

    address: str
    device: socket.socket
    service: socket.socket
    websocket: socket.socket | None = None
    websocket_problem: LocalHubError | None = None

    @property
    def service_port(self) -> int:
        """The port of the service endpoint."""
        return int(self.service.getsockname()[1])

    def close(self) -> None:
        """Close all of them."""
        for one in (self.device, self.service, self.websocket):
            if one is not None:
                one.close()


def is_loopback(address: object) -> bool:
    """Tell whether this is the text of an IPv4 loopback address."""
    try:
        return isinstance(address, str) and ipaddress.IPv4Address(address).is_loopback
    except ValueError:
        return False


def is_port(number: object) -> bool:
    """Tell whether this is the number of a TCP port."""
    return isinstance(number, int) and 0 < number < 65536


def check_loopback(address: str) -> str:
    """Return `address` when it is an IPv4 loopback address, else raise `LocalHubError`."""
    if not is_loopback(address):
        raise LocalHubError(
            f"The local hub listens on loopback only, and {address!r} is not such an address. "
            "Give one from 127.0.0.1 to 127.255.255.254."
        )
    return address


def bind(
    *,
    address: str | None = None,
    service_port: int | None = None,
    known_address: str | None = None,
    known_port: int | None = None,
) -> Listeners:
    """Bind the device port and the service port, and port 443 where that can be had.

    Args:
        address: The one address to take; without it the known one is tried first, then
            127.0.0.1 and the addresses after it.
        service_port: The one service port to take; without it the known one is tried first,
            then 8443 and the ports after it.
        known_address: The address of the last run.
        known_port: The service port of the last run.

    Raises:
        LocalHubError: Nothing is free; the message names the port, who has it, and the fix.
    """
    device = bind_device(address, known_address)
    chosen = str(device.getsockname()[0])
    try:
        service = _bind_service(chosen, service_port, known_port)
    except BaseException:
        device.close()
        raise
    websocket, problem = _bind_websocket(chosen, int(service.getsockname()[1]))
    return Listeners(chosen, device, service, websocket, problem)


def bind_device(address: str | None = None, known: str | None = None) -> socket.socket:
    """Bind the device port alone; arguments and errors as those of `bind`."""
    if address is not None:
        candidates = [check_loopback(address)]
    else:
        first = int(ipaddress.IPv4Address("127.0.0.1"))
        others = [str(ipaddress.IPv4Address(first + i)) for i in range(_ADDRESSES_TRIED)]
        candidates = list(dict.fromkeys([*([known] if known else []), *others]))
    for candidate in candidates:
        listener = _try_bind(candidate, DEVICE_PORT)
        if listener is not None:
            return listener
    raise _taken(DEVICE_PORT, candidates)


def _bind_service(address: str, port: int | None, known: int | None) -> socket.socket:
    if port is not None:
        if not is_port(port):
            raise LocalHubError(f"{port} is no port. Give --service-port one from 1 to 65535.")
        candidates = [port]
    else:
        others = range(SERVICE_PORT, SERVICE_PORT + _SERVICE_PORTS_TRIED)
        candidates = list(dict.fromkeys([*([known] if known else []), *others]))
    for candidate in candidates:
        listener = _try_bind(address, candidate)
        if listener is not None:
            return listener
    if port is None:
        raise LocalHubError(
            f"No service port from {candidates[0]} to {candidates[-1]} is free on {address}.",
            "Close the programs that hold them, or give one with --service-port.",
        )
    raise _taken(port, [address])


def _bind_websocket(
    address: str, service_port: int
) -> tuple[socket.socket | None, LocalHubError | None]:
    """Bind port 443, or tell why not: the hub can do without it."""
    if service_port == HTTPS_PORT:
        return None, None
    try:
        listener = _try_bind(address, HTTPS_PORT)
    except LocalHubError as error:
        return None, LocalHubError(error.happened, _NO_RIGHTS)
    except OSError as error:
        return None, LocalHubError(f"Port {HTTPS_PORT} cannot be had ({error.strerror}).")
    return listener, None if listener else _taken(HTTPS_PORT, [address])


def _try_bind(address: str, port: int) -> socket.socket | None:
    if sys.platform in _SHARING and _is_answered(address, port):
        return None
    # With the protocol named, asyncio turns Nagle's algorithm off: 40 ms less per message.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            # On Windows SO_REUSEADDR would let two programs share the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # type: ignore[attr-defined,unused-ignore]
        listener.bind((address, port))
        listener.listen(128)
        return listener
    except OSError as error:
        listener.close()
        if error.errno in _REFUSED and os.name == "posix":
            raise LocalHubError(
                f"The system does not let this user listen on port {port} (ports below 1024 need "
                "rights).",
                "Give a higher one with --service-port.",
            ) from error
        # EADDRNOTAVAIL: macOS has 127.0.0.1 only.
        if error.errno in _IN_USE | _REFUSED | {errno.EADDRNOTAVAIL}:
            return None
        raise
    except BaseException:
        listener.close()
        raise


def _is_answered(address: str, port: int) -> bool:
    # On Windows a port where nobody listens is not refused at once, but tried for two seconds.
    try:
        socket.create_connection((address, port), timeout=_ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _taken(port: int, addresses: list[str]) -> PortTaken:
    where = addresses[0] if len(addresses) == 1 else "every loopback address"
    owner = port_owner(port, addresses)
    held = f"{owner} holds it" if owner else "its owner is not visible to this user"
    fix = (
        "Stop that program (a broker such as mosquitto, another hub), or, on a machine of your "
        "own, let it listen on another port."
    )
    if len(addresses) == 1 and sys.platform != "darwin":
        fix += " Or give another loopback address with --host."
    return PortTaken(f"Port {port} is taken on {where}; {held}.", fix, port=port, owner=owner)


def port_owner(port: int, addresses: list[str]) -> PortOwner | None:
    """Name a process that listens there, where the system tells it to this user."""
    import psutil

    places = {(address, port) for address in (*addresses, "0.0.0.0", "::")}  # noqa: S104
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr in places
            if listens and connection.pid:
                return PortOwner(psutil.Process(connection.pid).name(), connection.pid)
    except (psutil.Error, OSError):
        return None
    return None
