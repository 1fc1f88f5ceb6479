"""The hub as a process: its commands, its files, and what it does when those are not as left."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers.localhub import background, tls
from fwupdate_helpers.localhub.config import load_config
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.schema import VERSIONS
from fwupdate_helpers.localhub.statedir import StateDir, write_json
from fwupdate_helpers.localhub.store import Store
from tests.support import (
    CAP_DAC_OVERRIDE,
    HubProcess,
    free_loopback_address,
    has_capability,
    localhub,
    settle,
)

Json = dict[str, Any]
posix = pytest.mark.skipif(os.name != "posix", reason="file modes and signals are POSIX")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    """Return a state folder, not made yet, whose background hub is stopped at the end."""
    state = StateDir(tmp_path / "state")
    yield state
    background.stop(state)


def test_importing_the_hub_or_the_package_imports_nothing_heavy() -> None:
    code = """
import sys
import fwupdate_helpers
import fwupdate_helpers.localhub.__main__
import fwupdate_helpers.localhub.background
import fwupdate_helpers.localhub.server
heavy = ("azure", "IPython", "ipykernel", "ipywidgets", "matplotlib", "msrest", "numpy", "uamqp")
print([name for name in heavy if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


# -- run ------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_run_prints_one_json_line_and_ends_with_0_on_a_signal(
    tmp_path: Path, how: int, record_property: Callable[[str, object], None]
) -> None:
    hub = HubProcess(tmp_path / "state")
    began = time.perf_counter()
    ready = hub.start()
    record_property("seconds until ready", round(time.perf_counter() - began, 2))

    process = hub.process
    process.send_signal(how)  # at once: whoever reads the line may do that
    rest, errors = process.communicate(timeout=20)

    assert (process.returncode, rest, errors) == (0, "", "")
    host, port = ready["device_host"], ready["service_port"]
    assert ready["connection_string"].startswith(f"HostName={host}:{port};SharedAccessKeyName=")
    assert ready["pid"] == process.pid
    assert Path(ready["ca_file"]).read_text(encoding="ascii").startswith("-----BEGIN CERTIFICATE")
    assert not (tmp_path / "state" / "hub.json").exists()


class HubWithFewFiles(HubProcess):
    """A hub that is started with a low limit of open files, as macOS starts every process."""

    program = (
        "-c",
        "import resource, sys\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "from fwupdate_helpers.localhub.__main__ import main\n"
        "sys.exit(main())",
    )


@posix
def test_a_hub_serves_more_devices_than_its_limit_of_open_files_at_the_start(
    tmp_path: Path,
) -> None:
    with HubWithFewFiles(tmp_path / "state") as hub, ExitStack() as stack:
        place = (hub.ready["device_host"], hub.ready["device_port"])
        for _ in range(100):
            stack.enter_context(closing(socket.create_connection(place)))
        context = tls.client_context(Path(hub.ca_file))
        last = stack.enter_context(closing(socket.create_connection(place, timeout=60)))
        with context.wrap_socket(last, server_hostname=place[0]) as secure:
            assert secure.version() is not None


def test_a_second_run_on_the_same_folder_is_refused_with_words(hub_process: HubProcess) -> None:
    second = localhub("run", hub_process.state_dir, "--host", free_loopback_address())
    assert (second.returncode, second.stdout) == (1, "")
    assert f"already runs with the folder {hub_process.state_dir}" in second.stderr
    assert "Traceback" not in second.stderr


def test_address_ports_keys_and_ca_outlive_a_crash(own_hub_process: HubProcess) -> None:
    before = own_hub_process.ready
    ca = Path(before["ca_file"]).read_bytes()
    own_hub_process.kill()
    assert (own_hub_process.state_dir / "hub.json").exists(), "the crash left it behind"

    found = background.ensure_running(StateDir(own_hub_process.state_dir))
    try:
        assert found.pid != before["pid"]
        assert found.connection_string == before["connection_string"]
        assert found.device_host == before["device_host"]
        assert found.ca_file.read_bytes() == ca
    finally:
        background.stop(StateDir(own_hub_process.state_dir))


# -- start, status, stop, reset -------------------------------------------------------------------


def test_start_and_stop_can_be_repeated_and_the_state_stays(state: StateDir) -> None:
    assert localhub("status", state.path).returncode == 3
    assert not state.path.exists(), "to ask makes nothing"
    settle(state)

    first, second = (localhub("start", state.path, "--show-keys") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(first.stdout)["pid"] == json.loads(second.stdout)["pid"]

    stopped = localhub("stop", state.path)
    assert (stopped.returncode, stopped.stdout) == (0, "The local hub has stopped.\n")
    again = localhub("stop", state.path)
    assert (again.returncode, again.stdout) == (0, "No local hub runs.\n")
    assert json.loads(localhub("status", state.path).stdout)["running"] is False

    third = localhub("start", state.path, "--show-keys")
    same = ("connection_string", "device_host", "service_port", "ca_file")
    assert all(json.loads(third.stdout)[key] == json.loads(first.stdout)[key] for key in same)


def test_keys_are_masked_unless_asked_for(hub_process: HubProcess) -> None:
    key = hub_process.connection_string.rpartition("SharedAccessKey=")[2]
    masked = localhub("status", hub_process.state_dir)
    shown = localhub("status", hub_process.state_dir, "--show-keys")
    started = localhub("start", hub_process.state_dir)

    assert (masked.returncode, shown.returncode, started.returncode) == (0, 0, 0)
    assert key not in masked.stdout + masked.stderr + started.stdout + started.stderr
    assert json.loads(masked.stdout)["connection_string"].endswith(";SharedAccessKey=***")
    assert json.loads(shown.stdout)["connection_string"] == hub_process.connection_string
    assert json.loads(masked.stdout)["pid"] == hub_process.ready["pid"]


def test_reset_deletes_devices_keys_and_ca(own_hub_process: HubProcess) -> None:
    own_hub_process.registry().create_device_with_sas("d1", None, None, "enabled")
    before, ca = own_hub_process.ready, Path(own_hub_process.ca_file).read_bytes()

    reset = localhub("reset", own_hub_process.state_dir)
    assert reset.returncode == 0
    assert own_hub_process.process.wait(20) == 0
    left = {path.name for path in own_hub_process.state_dir.iterdir()}
    assert left <= {"hub.lock", "start.lock", "config.json"}
    kept = json.loads((own_hub_process.state_dir / "config.json").read_text())
    assert kept.keys() == {"address", "service_port"}, "the place, no key"
    assert localhub("reset", own_hub_process.state_dir).returncode == 0

    own_hub_process.start()
    assert own_hub_process.connection_string != before["connection_string"]
    assert Path(own_hub_process.ca_file).read_bytes() != ca
    assert own_hub_process.registry().get_devices() == []


def test_four_starts_at_the_same_moment_make_one_hub(state: StateDir) -> None:
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: localhub("start", state.path), range(4)))
    assert [one.returncode for one in started] == [0, 0, 0, 0], [one.stderr for one in started]
    assert len({json.loads(one.stdout)["pid"] for one in started}) == 1


def test_stop_needs_authentication(hub_process: HubProcess) -> None:
    context = tls.client_context(Path(hub_process.ca_file))
    host = f"{hub_process.ready['device_host']}:{hub_process.ready['service_port']}"
    connection = http.client.HTTPSConnection(host, timeout=10, context=context)
    connection.request("POST", "/$localhub/stop")
    assert connection.getresponse().status == 401
    connection.close()
    assert background.find(StateDir(hub_process.state_dir)) is not None


# -- files that are not as they were left ---------------------------------------------------------


def test_a_stale_hub_json_with_the_pid_of_another_process_is_passed_over(state: StateDir) -> None:
    state.prepare()
    write_json(state.running_file, {"pid": os.getpid(), "device_host": "127.0.0.1"})
    assert background.find(state) is None
    assert background.ensure_running(state).pid != os.getpid()


def test_damaged_files_are_mended_by_a_start(state: StateDir) -> None:
    state.prepare()
    for file in (state.config_file, state.running_file, state.ca_file, state.server_pem):
        file.write_bytes(b'{"address": "127.\xff')
    found = background.ensure_running(state)
    assert background.find(state) == found


@pytest.mark.parametrize(
    "damage",
    [
        {"address": "0.0.0.0"},
        {"address": "8.8.8.8"},
        {"address": "no address"},
        {"address": 7},
        {"service_port": "8443"},
        {"service_port": 70000},
        {"policies": {"iothubowner": ["no key", "none either"]}},
        {"policies": []},
    ],
)
def test_a_config_with_a_wrong_entry_loses_that_entry_only(state: StateDir, damage: Json) -> None:
    state.prepare()
    good = {**load_config(state), "address": "127.9.9.9", "service_port": 8999}
    write_json(state.config_file, good | damage)
    loaded = load_config(state)
    wrong = next(iter(damage))
    assert loaded.get(wrong) != damage[wrong]
    assert {name: loaded[name] for name in good if name != wrong} == {
        name: good[name] for name in good if name != wrong
    }


def test_a_damaged_private_key_is_mended_by_new_certificates(state: StateDir) -> None:
    state.prepare()
    tls.ensure_certificates(state, "127.0.0.1")
    pem = state.server_pem.read_text(encoding="ascii")
    state.server_pem.write_text(pem[:-200], encoding="ascii")
    tls.ensure_certificates(state, "127.0.0.1")
    tls.server_context(state)


def test_a_running_hub_is_found_although_its_hub_json_is_damaged(
    own_hub_process: HubProcess,
) -> None:
    state = StateDir(own_hub_process.state_dir)
    state.running_file.write_text("{", encoding="ascii")
    assert background.ensure_running(state).pid == own_hub_process.ready["pid"]


def test_a_running_hub_whose_config_is_lost_gets_an_error_that_names_its_process(
    own_hub_process: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_MOMENT", 0.1)
    state = StateDir(own_hub_process.state_dir)
    state.config_file.write_text('{"policies": {"iothubowner": ["!"]}}', encoding="ascii")
    advice = rf"End its process \({own_hub_process.ready['pid']}\) by hand"
    for command in (background.ensure_running, background.stop):
        with pytest.raises(LocalHubError, match=advice):
            command(state)


def test_a_damaged_database_gets_an_error_that_says_what_to_do(state: StateDir) -> None:
    state.prepare()
    state.database.write_bytes(b"not a database " * 500)
    with pytest.raises(LocalHubError, match=r"hub\.db is damaged.* reset"):
        background.ensure_running(state)


def open_database(state: StateDir) -> Database:
    return Database(state.database, lambda: datetime.now(timezone.utc))


@pytest.mark.parametrize("refusal", ["no shared memory", "shared memory cannot be mapped"])
def test_where_wal_is_refused_the_store_says_so_and_works(
    state: StateDir,
    refusal: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    state.prepare()
    if refusal == "no shared memory":  # SQLite's own VFS for systems without it
        connect = sqlite3.connect
        monkeypatch.setattr(
            sqlite3,
            "connect",
            lambda file, **options: connect(f"file:{file}?vfs=unix-none", uri=True, **options),
        )
    else:  # as on some network drives: WAL is granted, and the first read fails
        state.database.with_name("hub.db-shm").mkdir()

    database = open_database(state)
    assert database.journal_mode == "delete"
    assert "refuses WAL" in caplog.text
    store = Store(database)
    store.create("d1", status="enabled", status_reason=None, authentication={}, capabilities={})
    database.close()
    assert [one.device_id for one in Store(open_database(state)).list(10)] == ["d1"]


def test_a_database_of_the_first_version_is_brought_up_to_date(state: StateDir) -> None:
    state.prepare()
    with closing(sqlite3.connect(state.database)) as old:
        old.executescript(f"{VERSIONS[0]} PRAGMA user_version = 1;")
    for _ in range(2):  # the second time there is nothing to do
        with closing(open_database(state)) as database:
            columns = database.connection.execute("PRAGMA table_info(devices)").fetchall()
            assert "configurations" in [column["name"] for column in columns]
            version = database.connection.execute("PRAGMA user_version").fetchone()[0]
            assert version == len(VERSIONS)


def test_a_database_of_a_newer_kit_is_refused_and_left_alone(state: StateDir) -> None:
    state.prepare()
    with closing(sqlite3.connect(state.database)) as newer:
        newer.executescript(f"CREATE TABLE future (x); PRAGMA user_version = {len(VERSIONS) + 1};")
    with pytest.raises(LocalHubError, match=r"newer version of this kit.* Update the kit"):
        open_database(state)
    with closing(sqlite3.connect(state.database)) as newer:
        tables = newer.execute("SELECT name FROM sqlite_master").fetchall()
        assert tables == [("future",)]
        assert newer.execute("PRAGMA user_version").fetchone() == (len(VERSIONS) + 1,)


# -- rights ---------------------------------------------------------------------------------------


@posix
def test_folders_are_0700_and_files_0600_even_with_umask_0(state: StateDir) -> None:
    started = localhub("start", state.path, umask=0)
    assert started.returncode == 0, started.stderr
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in state.path.rglob("*")}
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    assert {path.name for path in modes} >= {"config.json", "hub.db", "hub.lock", "start.lock"}
    wrong = {
        path.name: oct(mode)
        for path, mode in modes.items()
        if mode != (0o700 if path.is_dir() else 0o600)
    }
    assert not wrong


@posix
def test_a_folder_that_others_could_read_is_made_private(state: StateDir) -> None:
    state.path.mkdir(mode=0o755)
    state.prepare()
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def _folders_to_refuse(tmp_path: Path) -> Iterator[Path]:
    foreign = tmp_path / "foreign"
    foreign.mkdir(exist_ok=True)
    if os.getuid() == 0:
        os.chown(foreign, 12345, -1)
        yield foreign
    else:
        yield Path("/usr")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    yield shared
    file = tmp_path / "file"
    file.touch()
    yield file
    yield file / "below"
    yield Path("/proc/fwupdate")
    if not has_capability(CAP_DAC_OVERRIDE):
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        yield closed / "below"


@posix
def test_a_folder_that_cannot_be_ours_gets_an_error_with_the_variable_to_set(
    tmp_path: Path,
) -> None:
    for folder in _folders_to_refuse(tmp_path):
        with pytest.raises(LocalHubError, match="FWUPDATE_STATE_DIR"):
            background.ensure_running(StateDir(folder))
    for command in ("run", "start"):
        refused = localhub(command, next(_folders_to_refuse(tmp_path)))
        assert refused.returncode == 1, refused
        assert "FWUPDATE_STATE_DIR" in refused.stderr
        assert "Traceback" not in refused.stderr
    if os.getuid() == 0:
        assert stat.S_IMODE((tmp_path / "foreign").stat().st_mode) == 0o755


def test_a_folder_that_holds_other_files_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir(mode=0o755)
    (folder / "letter.txt").touch()
    refused = localhub("start", folder)
    assert refused.returncode == 1 and "holds other files" in refused.stderr
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
