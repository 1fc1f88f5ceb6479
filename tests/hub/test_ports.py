"""Where the hub listens: loopback only, the next free address and port, or a clear error."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fwupdate_helpers.localhub import background, ports
from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.statedir import StateDir, write_json
from tests.support import (
    CAP_NET_BIND_SERVICE,
    OWN_LOOPBACK,
    HubProcess,
    free_loopback_address,
    has_capability,
    localhub,
    own_network,
)


@contextmanager
def listening(address: str, port: int) -> Iterator[socket.socket]:
    """Listen on a port, as another program would."""
    with socket.create_server((address, port)) as listener:
        yield listener


def test_only_loopback_is_bound(hub_process: HubProcess) -> None:
    bound = {
        tuple(connection.laddr)
        for connection in psutil.Process(hub_process.ready["pid"]).net_connections(kind="all")
        if connection.status == psutil.CONN_LISTEN
    }
    host, port = hub_process.ready["device_host"], hub_process.ready["service_port"]
    assert bound == {(host, 8883), (host, port)}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "::1", "localhost", ""])
def test_another_address_than_loopback_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(LocalHubError, match="loopback only"):
        ports.bind(address=host)
    if host == "0.0.0.0":
        refused = localhub("run", tmp_path / "state", "--host", host)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("localhub: The local hub listens on loopback only")


def test_the_next_address_is_taken_when_8883_is_taken_on_the_known_one(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    address = free_loopback_address()
    write_json(state.config_file, {"address": address})
    with listening(address, 8883):
        found = background.ensure_running(state)
        try:
            assert found.device_host != address
            assert ports.is_loopback(found.device_host)
            assert background.status(state) is not None, "its certificate fits the new address"
        finally:
            background.stop(state)


def test_a_taken_address_that_was_asked_for_is_an_error_that_names_the_owner(
    tmp_path: Path, hub_process: HubProcess
) -> None:
    host, owner = hub_process.ready["device_host"], hub_process.ready["pid"]
    refused = localhub("run", tmp_path / "state", "--host", host)
    assert refused.returncode == 1
    assert f"Port 8883 is taken on {host}" in refused.stderr
    assert f"(process {owner}) holds it" in refused.stderr
    assert "--host" in refused.stderr


def test_the_owner_of_a_port_is_that_of_the_address(hub_process: HubProcess) -> None:
    own, host = free_loopback_address(), hub_process.ready["device_host"]
    with listening(own, 8883):
        assert f"(process {os.getpid()})" in str(ports.port_owner(8883, [own]))
        assert f"(process {hub_process.ready['pid']})" in str(ports.port_owner(8883, [host]))
        assert ports.port_owner(8883, [free_loopback_address()]) is None


ALL_TAKEN = """
import subprocess, sys
hub = [sys.executable, "-m", "fwupdate_helpers.localhub"]
with socket.create_server(("127.0.0.1", 8883)):
    subprocess.run([*hub, "start", "--state-dir", sys.argv[1] + "/one"])
    subprocess.run([*hub, "stop", "--state-dir", sys.argv[1] + "/one"])
with socket.create_server(("0.0.0.0", 8883)):
    sys.exit(subprocess.run([*hub, "start", "--state-dir", sys.argv[1] + "/all"]).returncode)
"""


def test_8883_taken_everywhere_is_an_error_with_the_port_the_owner_and_the_fix(
    tmp_path: Path,
) -> None:
    # In a network of its own, because the other tests' hubs listen on port 8883 here.
    ran = subprocess.run(
        [*own_network(), sys.executable, "-c", OWN_LOOPBACK + ALL_TAKEN, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert '"device_host": "127.0.0.2"' in ran.stdout, ran.stderr  # 127.0.0.1 was taken
    assert ran.returncode == 1
    assert "Port 8883 is taken on every loopback address" in ran.stderr
    assert f"{psutil.Process().name()} (process " in ran.stderr
    assert "Stop that program" in ran.stderr


def test_the_next_service_port_is_taken_when_8443_is_taken(tmp_path: Path) -> None:
    address = free_loopback_address()
    with listening(address, 8443), listening(address, 8444):
        listeners = ports.bind(address=address)
    with listeners.device, listeners.service:
        assert listeners.service_port == 8445


def test_a_taken_service_port_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    address = free_loopback_address()
    with listening(address, 9443), pytest.raises(LocalHubError, match="Port 9443 is taken"):
        ports.bind(address=address, service_port=9443)
    listeners = ports.bind(address=address)  # the device port was let go
    listeners.device.close()
    listeners.service.close()


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_number_that_is_no_port_is_refused_with_words(tmp_path: Path, port: str) -> None:
    with pytest.raises(LocalHubError, match="--service-port one from 1 to 65535"):
        ports.bind(address=free_loopback_address(), service_port=int(port))


def test_port_443_works_with_rights_and_is_a_clear_error_without(tmp_path: Path) -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    # macOS lets anybody have it on all addresses, and nobody without rights on loopback alone.
    free = sys.platform == "win32" or (first.exists() and int(first.read_text()) <= 443)
    hub = HubProcess(tmp_path / "state", "--service-port", "443")
    if free or has_capability(CAP_NET_BIND_SERVICE):
        with hub:
            assert hub.ready["service_port"] == 443
            assert hub.registry().get_devices() == []
    else:
        with pytest.raises(AssertionError, match="not let this user listen on port 443") as refused:
            hub.start()
        assert "--service-port" in str(refused.value)
        assert "Traceback" not in str(refused.value)
