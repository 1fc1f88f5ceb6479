"""What several tests need: a local hub as a process, and SDK clients that trust it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.iot.hub import IoTHubConfigurationManager, IoTHubJobManager, IoTHubRegistryManager

from fwupdate_helpers.localhub.statedir import StateDir, write_json

Json = dict[str, Any]

CAP_DAC_OVERRIDE = 1
CAP_NET_BIND_SERVICE = 10


def has_capability(number: int) -> bool:
    """Tell whether this process has one of the rights that root's power is made of on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return os.name == "posix" and os.getuid() == 0
    lines = status.read_text(encoding="ascii").splitlines()
    effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> number & 1)


def may_listen(port: int) -> bool:
    """Tell whether the system lets this process listen on a port of a loopback address."""
    with socket.socket() as probe:
        try:
            probe.bind((free_loopback_address(), port))
        except PermissionError:
            return False
    return True


def missing_tool(what: str) -> None:
    """Skip a test because this machine lacks a tool; fail where tests must not be skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI is set, so the test must not be skipped")
    pytest.skip(what)


_ADDRESSES_TRIED = 2000
MAC_ADDRESSES = (
    "A Mac has one of its own, and the tests need more, until it starts anew: "
    "for i in $(seq 2 250); do sudo ifconfig lo0 alias 127.0.0.$i up; done"
)

OWN_LOOPBACK = """
import fcntl, socket, struct
lo = struct.pack("16sH14s", b"lo", 0x1 | 0x40, bytes(14))  # IFF_UP, IFF_RUNNING
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, lo)  # SIOCSIFFLAGS
"""
"""What a Python does first in a network of its own: there, loopback is down."""


def own_network() -> list[str]:
    """Return what runs a command in a network of its own, where every port is free."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    for options in ("-n", "-rn"):
        command = ["unshare", options]
        if shutil.which("unshare") and not subprocess.call([*command, "true"], stderr=-3):
            return command
    missing_tool("no network namespace can be made here (unshare -rn)")
    raise AssertionError("unreachable: a missing tool skips the test, or fails it")


def without_rights() -> list[str]:
    """Return what runs a command without root's rights over files and ports; [] without them."""
    if not (has_capability(CAP_DAC_OVERRIDE) or has_capability(CAP_NET_BIND_SERVICE)):
        return []
    if shutil.which("setpriv") is None:
        missing_tool("setpriv is not installed (Debian's package util-linux)")
    # What root may do and others may not, taken from the bounding set.
    rights = "-net_bind_service,-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]


def free_loopback_address() -> str:
    """Return a loopback address whose MQTT port is free: each hub in the tests has its own."""
    for _ in range(_ADDRESSES_TRIED):
        address = _some_loopback_address()
        with socket.socket() as probe:
            try:
                probe.bind((address, 8883))
            except OSError:
                continue
            return address
    pytest.fail(f"No loopback address is free for a hub. {MAC_ADDRESSES}")


def _some_loopback_address() -> str:
    if sys.platform == "darwin":
        return f"127.0.0.{random.randint(2, 250)}"
    return "127." + ".".join(str(random.randint(1, 250)) for _ in range(3))


def localhub(
    command: str, state_dir: Path, *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m fwupdate_helpers.localhub`` to its end, as a user in a terminal does."""
    return subprocess.run(
        [sys.executable, "-m", "fwupdate_helpers.localhub", command, *arguments],
        env={**os.environ, "FWUPDATE_STATE_DIR": str(state_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start Python code in a process and session of its own, with pipes to it."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        **options,
    )


@contextmanager
def told_python(code: str, given: Json) -> Iterator[subprocess.Popen[str]]:
    """Run Python code that first reads a line of JSON; it is killed at the end if it still runs."""
    with run_python(code) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def settle(state: StateDir, *, address: str | None = None) -> None:
    """Give a state folder an address of its own, that no hub of another test takes meanwhile."""
    state.prepare()
    write_json(state.config_file, {"address": address or free_loopback_address()})


class HubProcess:
    """``python -m fwupdate_helpers.localhub run`` as a child process.

    Attributes:
        program: What Python runs, before the command ``run``.
        ready: The JSON line that it printed.
    """

    program: tuple[str, ...] = ("-m", "fwupdate_helpers.localhub")

    def __init__(self, state_dir: Path, *arguments: str) -> None:
        self.state_dir = state_dir
        self._arguments = ["--host", free_loopback_address(), *arguments]
        self.ready: Json = {}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Json:
        """Start the hub and wait until it is ready."""
        command = [sys.executable, *self.program, "run"]
        self._process = subprocess.Popen(
            [*command, "--state-dir", str(self.state_dir), *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the hub did not start: {self._process.communicate()[1]}")
        self.ready = json.loads(line)
        return self.ready

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process, which must run."""
        assert self._process is not None
        return self._process

    def stop(self) -> str:
        """End the hub with SIGTERM, or as Ctrl-Break does; return what it wrote to stderr."""
        process = self._process
        if process is None:
            return ""
        polite = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
        return self._end(lambda: process.send_signal(polite))

    def kill(self) -> None:
        """End the hub with SIGKILL, as a crash would."""
        if self._process:
            self._end(self._process.kill)

    def _end(self, how: Any) -> str:
        process, self._process = self._process, None
        assert process is not None
        how()
        return process.communicate(timeout=20)[1]

    def __enter__(self) -> HubProcess:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def connection_string(self) -> str:
        """The service connection string of the policy iothubowner."""
        return str(self.ready["connection_string"])

    @property
    def ca_file(self) -> str:
        """The CA that clients must trust."""
        return str(self.ready["ca_file"])

    @property
    def device_options(self) -> Json:
        """Keyword arguments for IoTHubDeviceClient."""
        return {"server_verification_cert": Path(self.ca_file).read_text(encoding="ascii")}

    def registry(self) -> IoTHubRegistryManager:
        """Return a registry manager that trusts this hub."""
        return self._trusting(IoTHubRegistryManager(self.connection_string))

    def jobs(self) -> IoTHubJobManager:
        """Return a job manager that trusts this hub."""
        return self._trusting(IoTHubJobManager(self.connection_string))

    def configurations(self) -> IoTHubConfigurationManager:
        """Return a configuration manager that trusts this hub."""
        return self._trusting(IoTHubConfigurationManager(self.connection_string))

    def _trusting(self, manager: Any) -> Any:
        manager.protocol.config.connection.verify = self.ca_file
        manager.protocol.config.keep_alive = True
        return manager


def device_connection_string(hub: HubProcess, device_id: str) -> str:
    """Create a device identity and return its connection string."""
    device = hub.registry().create_device_with_sas(device_id, None, None, "enabled")
    key = device.authentication.symmetric_key.primary_key
    return f"HostName={hub.ready['device_host']};DeviceId={device_id};SharedAccessKey={key}"


def reported(registry: IoTHubRegistryManager, device_id: str) -> Json:
    """Return the reported properties without what the hub adds to them."""
    found = dict(registry.get_twin(device_id).properties.reported)
    return {name: value for name, value in found.items() if not name.startswith("$")}
