"""The environment check against the real thing: hub, update, ports, rights, missing packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers import doctor
from fwupdate_helpers.doctor.hub import _update, check_clock, check_local_hub, check_tls
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.hub import connect_hub
from fwupdate_helpers.localhub import background, tls
from fwupdate_helpers.localhub.statedir import StateDir
from tests.support import OWN_LOOPBACK, own_network, settle, without_rights

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
DOCTOR = (sys.executable, "-m", "fwupdate_helpers.doctor")
HERE = doctor.Machine(folder=ROOT)


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a check to its end, as a user in a terminal does."""
    options = {"cwd": ROOT, "encoding": "utf-8", **options}
    return subprocess.run(
        list(command), capture_output=True, text=True, timeout=60, check=False, **options
    )


def lines(ran: subprocess.CompletedProcess[str]) -> dict[str, Json]:
    """Return the lines of a report in JSON by their ids."""
    assert ran.stderr == ""
    return {line["id"]: line for line in json.loads(ran.stdout)["lines"]}


def identities() -> list[str]:
    """Return the ids of all doctors' devices on the hub of these tests."""
    with connect_hub() as hub:
        ids = [device.device_id for device in hub.registry.get_devices()]
        return [one for one in ids if one.startswith("doctor-")]


def left_behind(before: set[threading.Thread]) -> set[threading.Thread]:
    """Return the threads that are new and do not end within a moment."""
    deadline = time.monotonic() + 3
    while (new := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return new


def test_a_check_of_this_machine_does_a_real_update_and_leaves_nothing_behind() -> None:
    folder = Path(os.environ["FWUPDATE_DEVICE_DIR"])
    shutil.rmtree(folder)
    check_local_hub(HERE)
    _update(5.0)  # the SDK's first client makes threads that serve all others
    threads = set(threading.enumerate())
    begun = time.monotonic()

    report = doctor.check(machine=HERE)

    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("device-doctor")]
    assert report.ok, report
    assert time.monotonic() - begun < 10
    assert report.lines[-1].id == "update"
    assert report.lines[-1].finding.found.startswith("completed in ")
    assert left_behind(threads) == set()
    assert identities() == []
    assert not folder.exists()
    folder.mkdir()


def test_a_check_never_contacts_azure_and_never_shows_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = "c2VjcmV0LWtleS1vZi1ub2JvZHk="
    with socket.create_server(("127.0.0.1", 0)) as azure:
        azure.setblocking(False)
        host = f"127.0.0.1:{azure.getsockname()[1]}"
        string = f"HostName={host};SharedAccessKeyName=owner;SharedAccessKey={key}"
        monkeypatch.setenv("FWUPDATE_IOTHUB_CONNECTION_STRING", string)
        for on_azure, state in ((False, "warning"), (True, "ok")):
            report = doctor.check(machine=HERE, on_azure=on_azure)
            assert report.ok, report
            assert [line.state for line in report.lines if line.id == "setting"] == [state]
            for shown in (json.dumps(report.as_json()), report._repr_html_(), repr(report)):
                assert key not in shown and host not in shown
        with pytest.raises(BlockingIOError):  # nobody has knocked
            azure.accept()


def test_an_update_that_takes_too_long_is_given_up_and_leaves_nothing_behind() -> None:
    check_local_hub(HERE)
    _update(5.0)  # the SDK's first client makes threads that serve all others
    threads = set(threading.enumerate())
    with pytest.raises(FirmwareUpdateError):
        _update(0.0)
    assert left_behind(threads) == set()
    assert identities() == []


def test_without_failures_the_status_is_0_also_on_an_old_console() -> None:
    ran = run(*DOCTOR, env={**os.environ, "PYTHONIOENCODING": "cp1252", "COLUMNS": "70"})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "+ ok           A real update" in ran.stdout
    assert ran.stdout.endswith("This machine is ready.\n")


def test_without_any_package_the_status_is_1_and_the_table_names_all_and_the_fix() -> None:
    # -S: Python's standard library and nothing else.
    ran = run(sys.executable, "-S", "-m", "fwupdate_helpers.doctor", "--json")
    assert ran.returncode == 1
    found = lines(ran)
    assert found["python"]["state"] == "ok"
    assert found["packages"]["state"] == "failure"
    if sys.version_info >= (3, 11):  # which reads TOML, and so knows what the kit needs
        for name in ("azure-iot-device", "aiohttp", "matplotlib", "packaging", "jupyterlab"):
            assert name in found["packages"]["found"]
    assert found["packages"]["commands"]
    assert found["update"]["state"] == "not checked"
    assert {line["state"] for line in found.values()} == {"ok", "failure", "not checked"}
    assert "Packages" in found["update"]["fix"]


TAKEN = """
import subprocess, sys
with socket.create_server(("0.0.0.0", 8883)):
    sys.exit(subprocess.call(sys.argv[1:]))
"""


def test_port_8883_taken_everywhere_is_a_failure_with_the_owner_and_the_command(
    tmp_path: Path,
) -> None:
    # In a network of its own, because the other tests' hubs listen on port 8883 here.
    owner = (*own_network(), sys.executable, "-c", OWN_LOOPBACK + TAKEN)
    state = {"FWUPDATE_STATE_DIR": str(tmp_path / "hub")}
    ran = run(*owner, *DOCTOR, "--json", env={**os.environ, **state})
    assert ran.returncode == 1
    found = lines(ran)
    port = found["device-port"]
    assert port["state"] == "failure"
    assert port["found"].startswith("Port 8883 is taken on every loopback address; python")
    assert port["fix"].startswith("Stop that program")
    (command,) = port["commands"]
    assert command.split()[0] == "kill" and f"(process {command.split()[1]})" in port["found"]
    assert [line["id"] for line in found.values() if line["state"] == "failure"] == ["device-port"]
    assert found["hub"]["fix"] == found["update"]["fix"] == "Mend 'Port 8883' first."


@pytest.mark.skipif(os.name != "posix", reason="modes of folders are POSIX")
def test_in_a_read_only_home_each_folder_has_a_fix_that_helps(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir(mode=0o500)
    temporary.mkdir()
    ours = ("FWUPDATE_", "JUPYTER", "IPYTHON", "XDG_")
    environment = {name: v for name, v in os.environ.items() if not name.startswith(ours)}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary)}
    environment["FWUPDATE_IOTHUB_CONNECTION_STRING"] = ""
    command = (*without_rights(), *DOCTOR, "--json")

    ran = run(*command, env=environment)
    assert ran.returncode == 1
    found = lines(ran)
    unwritable = [name for name, line in found.items() if line["state"] == "failure"]
    assert unwritable == ["hub-folder", "device-folder", "jupyter-folder"]
    assert found["hub-folder"]["found"].endswith("Permission denied.")
    assert "~" in found["hub-folder"]["found"] and str(home) not in ran.stdout
    fixes = [typed for name in unwritable for typed in found[name]["commands"]]
    assert [typed.partition("=")[0] for typed in fixes][:2] == [
        "export FWUPDATE_STATE_DIR",
        "export FWUPDATE_DEVICE_DIR",
    ]

    typed = "\n".join([*fixes, '"$@"', f"{sys.executable} -m fwupdate_helpers.localhub stop >&2"])
    ran = run("sh", "-c", typed, "sh", *command, env=environment)
    assert "has stopped" in ran.stderr
    assert json.loads(ran.stdout)["ok"], ran.stdout
    assert list(home.iterdir()) == []


@pytest.fixture
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDir]:
    """Return the folder of a shared hub that runs, for one test alone."""
    state = StateDir(tmp_path / "state")
    monkeypatch.setenv("FWUPDATE_STATE_DIR", str(state.path))
    settle(state)
    yield state
    background.stop(state)


def test_the_local_hub_is_started_and_tls_and_clock_are_tried_with_it(own_hub: StateDir) -> None:
    assert check_tls(HERE).state == "not checked"
    assert "no local hub to compare" in check_clock(HERE).found

    assert "started for this check" in check_local_hub(HERE).found
    assert "started" not in check_local_hub(HERE).found
    assert check_tls(HERE).state == "ok"
    assert "TLSv1.2 on port 8883 and TLSv1.3 on port 8" in check_tls(HERE).found
    assert check_clock(HERE).found.endswith("as the hub's")

    late = replace(HERE, now=lambda: datetime.now(timezone.utc) - timedelta(hours=1))
    assert check_clock(late).state == "failure"
    assert re.search(r", 3[56]\d\d s from the hub's clock", check_clock(late).found)


def test_a_hub_with_another_ca_than_the_one_at_hand_is_a_failure_of_tls(
    own_hub: StateDir, tmp_path: Path
) -> None:
    other = StateDir(tmp_path / "other")
    other.prepare()
    tls.ensure_certificates(other, "127.0.0.1")
    background.ensure_running(own_hub)
    right = own_hub.ca_file.read_bytes()
    own_hub.ca_file.write_bytes(other.ca_file.read_bytes())
    found = check_tls(HERE)
    own_hub.ca_file.write_bytes(right)
    assert found.state == "failure"
    assert "SSLCertVerificationError" in found.found
    assert found.commands[0].endswith("-m fwupdate_helpers.localhub reset")
