"""The client side: find, start and stop the hub that all notebooks of a user share."""

from __future__ import annotations

import http.client
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from fwupdate_helpers.localhub import tls
from fwupdate_helpers.localhub.authentication import OWNER_POLICY
from fwupdate_helpers.localhub.config import owner_connection_string
from fwupdate_helpers.localhub.errors import HubSilent, LocalHubError
from fwupdate_helpers.localhub.sas import make_token
from fwupdate_helpers.localhub.statedir import StateDir, read_json, write_json

logger = logging.getLogger(__name__)

Json = dict[str, Any]

IDLE_TIMEOUT: Final = 30 * 60.0
"""Seconds after its last use that the shared hub stops."""
_START_TIMEOUT: Final = 30.0
_STOP_TIMEOUT: Final = 10.0
_ANSWER_TIMEOUT: Final = 5.0
_MOMENT: Final = 3.0
"""Seconds that a hub may hold its folder and not answer: it is just starting or stopping."""
_POLL: Final = 0.02
_OLD_HUB: Final = (
    "It was started by an earlier version of this package. Stop it with "
    "'python -m fwupdate_helpers.localhub stop'."
)

# Ends at once, so that the hub has no parent: on Windows a kernel restart kills the kernel's
# children, and on POSIX a dead child of the kernel would stay as a zombie.
_LAUNCHER: Final = """
import os, subprocess, sys
os.umask(0o077)
flags = {"start_new_session": True}
if sys.platform == "win32":
    flags = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
null = subprocess.DEVNULL
with open(sys.argv[1], "w") as errors:
    hub = subprocess.Popen(
        sys.argv[2:], stdin=null, stdout=null, stderr=errors, close_fds=True, **flags
    )
print(hub.pid)
"""


@dataclass(frozen=True)
class RunningHub:
    """How to reach a hub that runs.

    Attributes:
        connection_string: For services, with the key of the policy iothubowner.
        device_host: What a device connection string has as its HostName.
        ca_file: The CA to trust.
        pid: Its process id.
        tier: The tier whose limits it has, if any.
        no_websockets: Why devices cannot use WebSockets, and what to do; empty when they can.
    """

    connection_string: str
    device_host: str
    service_port: int
    ca_file: Path
    pid: int
    tier: str | None = None
    no_websockets: str = ""

    def __repr__(self) -> str:
        return f"RunningHub({self.device_host}:{self.service_port}, pid {self.pid})"


def ensure_running(
    state: StateDir,
    *,
    idle_timeout: float = IDLE_TIMEOUT,
    start_timeout: float = _START_TIMEOUT,
) -> RunningHub:
    """Return the shared hub, started when it does not run yet.

    Args:
        state: Its folder.
        idle_timeout: Seconds after its last use that a hub which is started here stops.
        start_timeout: Seconds that it may take to start, or that another process may be at it.

    Raises:
        LocalHubError: It cannot start; the message tells what to do.
    """
    with _starting(state, start_timeout + _MOMENT):
        if (found := _find_patiently(state)) is not None:
            return found
        pid = _launch(state, idle_timeout)
        _wait_until_ready(state, pid, start_timeout)
        found = find(state)
    if found is None:
        raise LocalHubError(f"The local hub started and does not answer. Its log: {state.log_file}")
    return found


def find(state: StateDir, *, timeout: float = _ANSWER_TIMEOUT) -> RunningHub | None:
    """Return the hub that runs with this folder, or None when none answers in `timeout` seconds."""
    if not _is_locked(state):
        return None
    try:
        about = request(state, "GET", "/$localhub/status", timeout=timeout)
    except (LocalHubError, OSError):
        return None
    return RunningHub(
        connection_string=owner_connection_string(state),
        device_host=about["device_host"],
        service_port=about["service_port"],
        ca_file=state.ca_file,
        pid=about["pid"],
        tier=about.get("tier"),
        no_websockets=about.get("websocket_problem", _OLD_HUB) or "",
    )


def _find_patiently(state: StateDir) -> RunningHub | None:
    deadline = time.monotonic() + _MOMENT
    while (found := find(state)) is None and _is_locked(state):
        if time.monotonic() > deadline:
            raise _unreachable(state)
        time.sleep(_POLL)
    return found


def status(state: StateDir) -> Json | None:
    """Return what the running hub tells of itself, or None when none runs."""
    return None if find(state) is None else request(state, "GET", "/$localhub/status")


def stop(state: StateDir) -> bool:
    """Stop the hub that runs with this folder; return whether there was one.

    Raises:
        LocalHubError: It does not stop.
    """
    if not state.was_used:
        return False
    with _starting(state):
        return _stop(state)


def reset(state: StateDir) -> None:
    """Stop the hub and delete all that it keeps: registry, twins, keys, certificates, images."""
    if not state.was_used:
        return
    with _starting(state):
        _stop(state)
        config = read_json(state.config_file) or {}
        state.remove_state()
        # At the same address, what is still open elsewhere gets a plain 401.
        place: Json = {name: config[name] for name in ("address", "service_port") if name in config}
        write_json(state.config_file, place)


def request(state: StateDir, method: str, path: str, *, timeout: float = _ANSWER_TIMEOUT) -> Json:
    """Send an authenticated request to the hub's own routes; `timeout` is in seconds.

    Raises:
        LocalHubError: The hub refuses it, or answers with something else than JSON.
        OSError: The hub does not answer.
    """
    parts = dict(part.split("=", 1) for part in owner_connection_string(state).split(";"))
    host = parts["HostName"]
    token = make_token(host, parts["SharedAccessKey"], int(time.time()) + 60, OWNER_POLICY)
    connection = http.client.HTTPSConnection(
        host, timeout=timeout, context=tls.client_context(state.ca_file)
    )
    try:
        connection.request(method, path, headers={"Authorization": token})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise LocalHubError(f"The local hub answers {response.status} {response.reason}.")
        content: Json = json.loads(body)
        return content
    except (http.client.HTTPException, ValueError) as error:
        raise LocalHubError("What listens on the hub's port is not the local hub.") from error
    finally:
        connection.close()


@contextmanager
def _starting(state: StateDir, timeout: float = _START_TIMEOUT + _STOP_TIMEOUT) -> Iterator[None]:
    state.prepare()
    lock = FileLock(state.start_lock, timeout=timeout, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        raise LocalHubError(
            f"Another process has been starting or stopping the local hub of {state.path} for "
            f"{lock.timeout:.0f} s. End it, then try again."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _is_locked(state: StateDir) -> bool:
    if not state.was_used:
        return False
    lock = FileLock(state.hub_lock, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # another user's folder
        return False
    lock.release()
    return False


def _launch(state: StateDir, idle_timeout: float) -> int:
    state.failure_file.unlink(missing_ok=True)
    state.running_file.unlink(missing_ok=True)
    hub = [sys.executable, "-m", "fwupdate_helpers.localhub", "run", "--background"]
    hub += ["--state-dir", str(state.path), "--idle-timeout", str(idle_timeout)]
    launched = subprocess.run(
        [sys.executable, "-I", "-c", _LAUNCHER, str(state.error_file), *hub],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=_hub_environment(),
        cwd=state.path,
        text=True,
        check=False,
    )
    if launched.returncode != 0:
        raise LocalHubError(f"The local hub's process cannot start: {launched.stderr.strip()}")
    return int(launched.stdout)


def _hub_environment() -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("FWUPDATE_IOTHUB_CONNECTION_STRING", None)
    # The hub's working folder is another one, so a package found through '.' would be lost.
    paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _wait_until_ready(state: StateDir, pid: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        alive = _is_alive(pid)
        # Its pid is not compared: in a Windows venv, python.exe starts the real one.
        if read_json(state.running_file) is not None:
            return
        if (failure := read_json(state.failure_file)) is not None:
            raise LocalHubError(str(failure.get("message")))
        if not alive:
            raise LocalHubError(f"The local hub ended while it started: {_last_words(state)}")
        time.sleep(_POLL)
    raise LocalHubError(
        f"The local hub was not ready after {timeout:.0f} s. Its log: {state.log_file}"
    )


def _is_alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # Windows tells no more of a process that is just ending
        return True


def _last_words(state: StateDir) -> str:
    lines = state.error_file.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), f"see {state.log_file}")


def _stop(state: StateDir) -> bool:
    if not _is_locked(state):
        state.running_file.unlink(missing_ok=True)
        return False
    pid = (read_json(state.running_file) or {}).get("pid")
    try:
        request(state, "POST", "/$localhub/stop")
    except (LocalHubError, OSError) as error:
        if not _lets_go(state, _MOMENT):
            raise _unreachable(state) from error
    if not _lets_go(state, _STOP_TIMEOUT):
        raise LocalHubError(
            f"The local hub was told to stop and still runs. Its log: {state.log_file}"
        )
    if isinstance(pid, int):
        _wait_for_end(pid)
    return True


def _wait_for_end(pid: int) -> None:
    """Wait until a process that has let go of its lock is gone: on Windows it holds its log."""
    deadline = time.monotonic() + _MOMENT
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(_POLL)


def _lets_go(state: StateDir, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _is_locked(state):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _unreachable(state: StateDir) -> LocalHubError:
    pid = (read_json(state.running_file) or {}).get("pid")
    return HubSilent(
        f"A local hub holds {state.path} and does not answer.",
        f"End its process ({pid or 'see hub.json'}) by hand, then try again.",
        pid=pid,
    )


def report_failure(state: StateDir, message: str) -> None:
    """Leave the reason of a failed start for the process that waits for it."""
    write_json(state.failure_file, {"message": message})
