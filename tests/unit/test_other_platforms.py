"""What the kit does on Windows and macOS, as far as this machine can tell: the platform is faked.

The sockets, files, signals and processes are this machine's real ones.
"""

from __future__ import annotations

import asyncio
import errno
import getpass
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import types
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from platformdirs import user_state_path

from fwupdate_helpers import apps, attendees, hub
from fwupdate_helpers.firmware import flash, keys
from fwupdate_helpers.fleet import crew
from fwupdate_helpers.fleet.states import FleetStates
from fwupdate_helpers.localhub import (
    background,
    open_files,
    ports,
    replacing,
    server,
    statedir,
)
from fwupdate_helpers.localhub.errors import PortTaken
from tests.faked_platform import (
    CREATE_NEW_PROCESS_GROUP,
    CREATE_NO_WINDOW,
    EXCLUSIVE_STAND_IN,
    fake_platform,
)
from tests.support import free_loopback_address

pytestmark = [
    pytest.mark.faked_platform,
    pytest.mark.skipif(os.name != "posix", reason="fakes other systems than POSIX's"),
]
AZURE = "HostName=h.azure-devices.net;SharedAccessKeyName=p;SharedAccessKey=c2VjcmV0"


# -- ports and addresses --------------------------------------------------------------------------


class SharingSocket(socket.socket):
    """Binds beside a listener, as sockets of macOS and Windows do beside one on all addresses."""

    def bind(self, address: Any) -> None:
        """Bind, whoever else listens there."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().bind(address)


@pytest.fixture
def broker() -> Iterator[str]:
    """Return the address where a broker listens on port 8883, and lets others do so, too."""
    with SharingSocket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        address = free_loopback_address()
        listener.bind((address, 8883))
        listener.listen()
        yield address


def test_a_broker_that_would_share_its_port_keeps_it(
    monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    monkeypatch.setattr(socket, "socket", SharingSocket)
    ports.bind_device(broker).close()  # as they let us do
    for system in ("macos", "windows"):
        with monkeypatch.context() as faked:
            fake_platform(faked, system, ports)
            with pytest.raises(PortTaken, match=f"Port 8883 is taken on {broker}"):
                ports.bind_device(broker)


class OneAddress(socket.socket):
    """Knows 127.0.0.1 and no other loopback address."""

    def bind(self, address: Any) -> None:
        """Bind 127.0.0.1; another address is not there."""
        if address[0] != "127.0.0.1":
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        super().bind(address)


def test_a_mac_has_one_loopback_address_and_no_advice_names_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_platform(monkeypatch, "macos", ports)
    with socket.create_server(("127.0.0.1", 0)) as broker:
        port = broker.getsockname()[1]
        monkeypatch.setattr(ports, "DEVICE_PORT", port)
        monkeypatch.setattr(socket, "socket", OneAddress)
        with pytest.raises(PortTaken, match="on every loopback address") as all_taken:
            ports.bind_device()
        with pytest.raises(PortTaken) as one_taken:
            ports.bind_device("127.0.0.1")
    for error in (all_taken, one_taken):
        assert "--host" not in str(error.value)
    with ports.bind_device() as ours:
        assert ours.getsockname() == ("127.0.0.1", port)


def test_on_windows_nobody_may_take_our_port_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_platform(monkeypatch, "windows", ports)
    with ports.bind_device(free_loopback_address()) as ours:
        assert ours.getsockopt(socket.SOL_SOCKET, EXCLUSIVE_STAND_IN) != 0
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0


def test_a_port_that_windows_keeps_for_itself_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reserving(socket.socket):
        def bind(self, address: Any) -> None:
            if address[1] == ports.SERVICE_PORT:
                raise PermissionError(errno.EACCES, "WSAEACCES")
            super().bind(address)

    fake_platform(monkeypatch, "windows", ports)
    monkeypatch.setattr(socket, "socket", Reserving)
    both = ports.bind(address=free_loopback_address())
    with both.device, both.service:
        assert both.service_port == ports.SERVICE_PORT + 1


# -- folders and files ----------------------------------------------------------------------------


def test_a_mac_finds_its_hub_again_in_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(statedir.STATE_DIR_VARIABLE)

    def folders() -> set[Path]:
        found = set()
        for name in ("annas-mac.local", "dhcp-12.campus"):
            monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
            found.add(statedir.StateDir.default().path)
        return found

    assert len(folders()) == 2, "elsewhere, homes are shared and names of computers stay"
    fake_platform(monkeypatch, "macos", statedir)
    assert len(folders()) == 1
    assert folders().pop().is_relative_to(user_state_path("fwupdate-localhub", appauthor=False))


def test_on_windows_the_state_folder_needs_no_modes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_platform(monkeypatch, "windows", statedir)
    tmp_path.chmod(0o755)
    state = statedir.StateDir(tmp_path)
    (tmp_path / "desktop.ini").touch()
    state.prepare()
    statedir.write_json(state.config_file, {"address": "127.0.0.1"})
    assert statedir.read_json(state.config_file) == {"address": "127.0.0.1"}


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Have a virus scanner hold files: the next two that are given another name."""
    held: list[Path] = []
    replace = Path.replace

    def busy(self: Path, target: Path) -> Path:
        if len(held) < 2:
            held.append(self)
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    return held


def test_on_windows_a_file_that_a_virus_scanner_holds_is_replaced_a_moment_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scanned: list[Path]
) -> None:
    fake_platform(monkeypatch, "windows", replacing)
    statedir.write_private(tmp_path / "hub.json", b"{}")
    assert (tmp_path / "hub.json").read_bytes() == b"{}"
    assert len(scanned) == 2


def test_a_file_that_stays_held_is_an_error_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scanned: list[Path]
) -> None:
    with pytest.raises(PermissionError):  # here: at once, it is a matter of modes
        statedir.write_private(tmp_path / "hub.json", b"{}")
    fake_platform(monkeypatch, "windows", replacing)
    monkeypatch.setattr(replacing, "_PATIENCE", 0.0)
    with pytest.raises(PermissionError):
        statedir.write_private(tmp_path / "hub.json", b"{}")
    assert list(tmp_path.iterdir()) == [], "nothing is left of what was tried"


def test_on_windows_the_flash_chip_syncs_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_platform(monkeypatch, "windows", flash)
    chip = flash.Flash(tmp_path)
    flash.write_in_one_step(chip, "boot.json", b"{}")
    chip.lose_power()
    assert flash.Flash(tmp_path).read("boot.json") == b"{}"


def test_on_windows_a_signing_key_is_not_judged_by_its_mode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = keys.demo_signing_key(tmp_path)
    (tmp_path / keys.KEY_FILE).chmod(0o644)  # what Windows tells of every file
    fake_platform(monkeypatch, "windows", keys)
    assert keys.demo_signing_key(tmp_path).private_bytes_raw() == before.private_bytes_raw()


# -- users, processes, signals --------------------------------------------------------------------


def test_on_windows_a_service_without_a_user_has_device_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_pwd() -> str:  # what getpass does there before Python 3.13
        raise ModuleNotFoundError("No module named 'pwd'")

    fake_platform(monkeypatch, "windows", attendees)
    monkeypatch.setattr(getpass, "getuser", no_pwd)
    monkeypatch.delenv("JUPYTERHUB_USER", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    azure = hub.Hub(kind="azure", connection_string=AZURE)
    assert azure.device_id("pump").endswith("user-pump")


LAUNCHED = """
import json, subprocess, sys
sys.platform = "win32"
subprocess.CREATE_NO_WINDOW, subprocess.CREATE_NEW_PROCESS_GROUP = {no_window}, {own_group}
class Popen:
    pid = 7
    def __init__(self, command, *, stderr, **given):
        print(json.dumps([command, given]))
subprocess.Popen = Popen
"""


def test_on_windows_the_hub_has_no_window_and_hears_no_ctrl_c_of_its_starter(
    tmp_path: Path,
) -> None:
    code = LAUNCHED.format(no_window=CREATE_NO_WINDOW, own_group=CREATE_NEW_PROCESS_GROUP)
    command = [sys.executable, "-I", "-c", code + background._LAUNCHER, str(tmp_path / "errors")]
    ran = subprocess.run([*command, "hub"], capture_output=True, text=True, check=True)
    started, pid = ran.stdout.splitlines()
    (program, given), null = json.loads(started), subprocess.DEVNULL
    assert (program, pid) == (["hub"], "7")
    assert given.pop("creationflags") == CREATE_NO_WINDOW | CREATE_NEW_PROCESS_GROUP
    assert given == {"stdin": null, "stdout": null, "close_fds": True}


def test_a_process_of_which_windows_tells_nothing_counts_as_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(self: psutil.Process) -> str:
        raise psutil.AccessDenied

    assert background._is_alive(os.getpid())
    monkeypatch.setattr(psutil.Process, "status", denied)
    assert background._is_alive(os.getpid())


def test_on_windows_a_fleets_worker_has_no_window_and_ends_with_its_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags: list[int] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: Any, *, creationflags: int, **given: Any) -> None:
            flags.append(creationflags)
            super().__init__(command, **given)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    fake_platform(monkeypatch, "windows", crew)
    worker = crew.Worker([0], FleetStates(1))
    worker.begin()
    crew.end_all([worker], 60, lambda: None)
    assert flags == [CREATE_NO_WINDOW | CREATE_NEW_PROCESS_GROUP]
    assert worker.process is not None and worker.process.returncode == 0


def test_on_windows_ctrl_break_stops_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_platform(monkeypatch, "windows", server)

    async def stop() -> None:
        stopping = asyncio.Event()
        with server._stop_signals(asyncio.get_running_loop(), stopping):
            os.kill(os.getpid(), signal.SIGUSR1)  # in the place of SIGBREAK
            await asyncio.wait_for(stopping.wait(), 60)

    before = signal.getsignal(signal.SIGUSR1)
    asyncio.run(stop())
    assert signal.getsignal(signal.SIGUSR1) == before


def test_on_windows_ctrl_break_stops_an_app(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_platform(monkeypatch, "windows", apps)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        status = apps._run(lambda options: signal.raise_signal(signal.SIGUSR1), Namespace())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (status, capsys.readouterr().out) == (0, "Stopped.\n")


# -- open files -----------------------------------------------------------------------------------

LIMITED = """
import resource
from fwupdate_helpers.localhub.open_files import allow_open_files
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
allow_open_files({number})
soft, still_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
print(soft, hard == still_hard)
"""


@pytest.mark.parametrize(("number", "allowed"), [(300, "300"), (100, "256")])
def test_the_limit_of_open_files_is_raised_and_never_lowered(number: int, allowed: str) -> None:
    code = LIMITED.format(number=number)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [allowed, "True"]


def test_a_limit_that_macos_does_not_raise_is_told_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        assert limits == (open_files.ENOUGH, -1)
        raise ValueError("current limit exceeds maximum limit")

    resource = types.SimpleNamespace(
        RLIMIT_NOFILE=8, RLIM_INFINITY=-1, getrlimit=lambda which: (256, -1), setrlimit=refuse
    )
    monkeypatch.setitem(sys.modules, "resource", resource)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        open_files.allow_open_files()
    assert "no more than 256 files" in caplog.text


def test_windows_has_no_limit_of_open_files(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # type: ignore[arg-type]
    open_files.allow_open_files()
    assert caplog.text == ""
