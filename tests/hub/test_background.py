"""The background hub stands on its own feet, and stops when nobody has used it for a while."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.hub import Hub, connect_hub
from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.statedir import StateDir
from tests.support import run_python

IDLE = 1.0
"""Seconds after its last use that the hubs of these tests stop."""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDir]:
    """Return the state folder that `connect_hub` uses; its hub is stopped at the end."""
    state = StateDir(tmp_path / "state")
    monkeypatch.setenv("FWUPDATE_STATE_DIR", str(state.path))
    yield state
    background.stop(state)


STARTER = """
import os, sys
from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.statedir import StateDir
os.set_inheritable(int(sys.argv[1]), True)
print(background.ensure_running(StateDir.default()).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="descriptors and process groups are POSIX")
def test_the_hub_has_no_stream_descriptor_or_parent_of_its_starter_and_outlives_it(
    state: StateDir,
) -> None:
    reading, writing = os.pipe()
    starter = run_python(STARTER, str(writing), pass_fds=(writing,))
    os.close(writing)
    assert starter.stdout is not None
    hub = psutil.Process(int(starter.stdout.readline()))

    assert hub.ppid() not in (starter.pid, os.getpid())
    assert os.getpgid(hub.pid) not in (os.getpgid(starter.pid), os.getpgrp())
    assert hub.cwd() == str(state.path)
    if sys.platform == "linux":
        streams = [Path(f"/proc/{hub.pid}/fd/{number}").readlink() for number in range(3)]
        assert streams == [Path("/dev/null"), Path("/dev/null"), state.error_file]

    os.killpg(starter.pid, signal.SIGKILL)
    assert starter.communicate(timeout=10) == ("", ""), "its streams ended with it"
    assert select.select([reading], [], [], 5)[0], "nobody holds the other end of the pipe"
    os.close(reading)
    found = background.find(state)
    assert found is not None
    assert found.pid == hub.pid


def test_the_hub_stops_only_after_the_last_hub_closed_and_the_last_device_left(
    state: StateDir,
) -> None:
    process = _start(state)
    with connect_hub() as hub:
        device = SimulatedDevice(hub.device_connection_string("d1"), **hub.device_options)
        assert _goes_on(process), "a Hub is open"
        device.start()
    with device:
        assert _goes_on(process), "a device is connected"
    process.wait(20)
    assert background.find(state) is None


KILLED = """
import sys
from fwupdate_helpers.hub import connect_hub
hub = connect_hub()
print(hub.host_name, flush=True)
sys.stdin.read()
"""


def test_the_open_hub_of_a_killed_process_does_not_keep_the_hub(state: StateDir) -> None:
    process = _start(state)
    with connect_hub():
        user = run_python(KILLED)
        assert user.stdout is not None
        assert user.stdout.readline()
        assert len(list(state.leases.iterdir())) == 2
    user.kill()
    process.wait(20)  # although `user` is a zombie until we look after it
    user.communicate(timeout=10)
    assert list(state.leases.iterdir()) == []


def test_an_open_hub_that_is_forgotten_lets_go_of_the_hub(state: StateDir) -> None:
    hub: Hub | None = connect_hub()
    assert len(list(state.leases.iterdir())) == 1
    del hub
    assert list(state.leases.iterdir()) == []


def test_a_hub_that_dies_while_it_starts_leaves_its_last_words(
    state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aiohttp.py").write_text("raise RuntimeError('half installed')", encoding="ascii")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LocalHubError, match="ended while it started: RuntimeError: half installed"):
        background.ensure_running(state)


def _start(state: StateDir) -> psutil.Process:
    return psutil.Process(background.ensure_running(state, idle_timeout=IDLE).pid)


def _goes_on(process: psutil.Process) -> bool:
    try:
        process.wait(IDLE + 0.7)
    except psutil.TimeoutExpired:
        return True
    return False
