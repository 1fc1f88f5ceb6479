"""The console apps: two processes against the local hub, with the messages of Azure's tutorial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.iot.device import IoTHubDeviceClient, MethodResponse

from fwupdate_helpers import contract
from fwupdate_helpers.localhub.sas import make_token
from tests.support import HubProcess, device_connection_string

NEVER = 2**40


def app(name: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start a console app as it was installed, beside this Python."""
    program = Path(sys.executable).with_name(name)
    return subprocess.Popen(
        [str(program), *arguments],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], text: str | None = None) -> tuple[int, str, str]:
    out, err = process.communicate(text, timeout=60)
    return process.returncode, out, err


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"{text!r} never came, only {lines}")


def in_order(lines: list[str], *expected: str) -> bool:
    """Tell whether each text starts a line, in this order, others between them allowed."""
    rest = iter(lines)
    return all(any(line.startswith(text) for line in rest) for text in expected)


@pytest.fixture
def string_file(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a connection string to a file and returns its path."""

    def write(connection_string: str) -> str:
        file = tmp_path / "connection-string"
        file.write_text(connection_string + "\n", encoding="utf-8")
        return str(file)

    return write


@pytest.fixture
def device_app(
    hub_process: HubProcess, device_id: str, string_file: Callable[[str], str]
) -> Iterator[subprocess.Popen[str]]:
    """Return `fwupdate-device` on `hub_process`, with stages of 0.7 s."""
    file = string_file(device_connection_string(hub_process, device_id))
    trust = ("--ca-file", hub_process.ca_file)
    process = app(
        "fwupdate-device", "--connection-string-file", file, *trust, "--stage-seconds", "0.7"
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def service_app(
    hub_process: HubProcess, device_id: str, tmp_path: Path
) -> Callable[[], subprocess.Popen[str]]:
    """Return a function that starts `fwupdate-service` on `hub_process` for this test's device."""

    def start() -> subprocess.Popen[str]:
        file = tmp_path / "service-connection-string"
        file.write_text(hub_process.connection_string, encoding="utf-8")
        options = ("--ca-file", hub_process.ca_file, "--device-id", device_id)
        return app("fwupdate-service", "--connection-string-file", str(file), *options)

    return start


def test_the_two_apps_tell_the_story_of_the_tutorial_in_its_order() -> None:
    device = app("fwupdate-device", "--stage-seconds", "0.7")
    start = read_until(device, "Waiting for commands")
    service = app("fwupdate-service")
    status, told, errors = finish(service)
    update = read_until(device, "Image applied.")
    update += read_until(device, "Reported state updated.")
    device.send_signal(signal.SIGINT)
    device_status, rest, device_errors = finish(device)

    assert in_order(start, "IoT Hub device, protocol MQTT", "Reported state updated.",
                    "Device twins initialized.", "Waiting for commands")  # fmt: skip
    assert "SharedAccessKey=***" in start[0]
    assert in_order(update, "Starting firmware update.", "Reported state updated.",
                    "Downloading image from: test.com", "Reported state updated.",
                    "Applying image from: test.com", "Reported state updated.",
                    "Image applied.", "Reported state updated.")  # fmt: skip
    assert (device_status, rest.strip(), device_errors) == (0, "Stopped.", "")
    assert (status, errors) == (0, "")
    assert in_order(told.splitlines(), "IoT Hub service", "Device: ", "Direct Method called.",
                    '{"Response": "Firmware update started"}', "Waiting on device...",
                    "Downloading firmware...", "Download complete, applying firmware...",
                    "Firmware applied", "{")  # fmt: skip
    assert '"lastFirmwareUpdate"' in told and "Unknown status" not in told


def test_a_service_that_finds_states_by_text_in_the_raw_twin_sees_all_four(
    hub_process: HubProcess, device_id: str, device_app: subprocess.Popen[str]
) -> None:
    """The tutorial's service looks for '"firmwareStatus":"completed"' and so on in the JSON."""
    read_until(device_app, "Waiting for commands")
    parts = dict(part.split("=", 1) for part in hub_process.connection_string.split(";"))
    token = make_token(
        parts["HostName"], parts["SharedAccessKey"], NEVER, parts["SharedAccessKeyName"]
    )
    session = requests.Session()
    session.headers["Authorization"] = token
    session.verify, session.trust_env = hub_process.ca_file, False
    url = f"https://{parts['HostName']}/twins/{device_id}"
    version = "?api-version=2021-04-12"
    order = {"methodName": "firmwareUpdate", "payload": {"fwPackageUri": "test.com"}}
    started = session.post(f"{url}/methods{version}", json=order).json()

    assert started == {"status": 200, "payload": {"Response": "Firmware update started"}}
    seen: list[str] = []
    while "completed" not in seen:
        text = session.get(url + version).text
        found = [s for s in contract.STATUSES if f'"firmwareStatus":"{s}"' in text]
        assert len(found) == 1
        seen += [state for state in found if state not in seen]
    assert seen == ["standBy", "downloading", "applying", "completed"]


def test_the_service_works_with_the_device_of_azures_tutorial(
    hub_process: HubProcess, device_id: str, service_app: Callable[[], subprocess.Popen[str]]
) -> None:
    """That device knows no update id, no `firmwareUpdate` object, and naive local times."""
    client = IoTHubDeviceClient.create_from_connection_string(
        device_connection_string(hub_process, device_id), **hub_process.device_options
    )

    def report(**values: str) -> None:
        client.patch_twin_reported_properties(values)

    def now() -> str:
        return datetime.now().isoformat()

    def update(request: Any) -> None:
        answer = {"Response": "Firmware update started"}
        client.send_method_response(MethodResponse.create_from_method_request(request, 200, answer))
        assert watched.wait(60), "that device waits 15 s before it downloads"
        report(firmwareStatus="downloading", downloadComplete=now())
        report(firmwareStatus="applying", startedApplyingImage=now())
        report(firmwareStatus="completed", lastFirmwareUpdate=now())

    watched = threading.Event()
    client.connect()
    report(firmwareStatus="standBy", logTime=now())
    client.on_method_request_received = update
    try:
        service = service_app()
        read_until(service, "Waiting on device...")
        watched.set()
        status, told, errors = finish(service)
    finally:
        client.shutdown()
    assert (status, errors) == (0, "")
    assert "Firmware applied" in told.splitlines()


def test_a_connection_string_comes_by_standard_input_or_by_variable(
    hub_process: HubProcess, device_id: str, device_app: subprocess.Popen[str]
) -> None:
    read_until(device_app, "Waiting for commands")
    options = ("--ca-file", hub_process.ca_file, "--device-id", device_id)
    string = hub_process.connection_string

    by_input = app("fwupdate-service", "--connection-string-file", "-", *options)
    assert finish(by_input, string + "\n")[0] == 0
    by_variable = app("fwupdate-service", *options, IOTHUB_CONNECTION_STRING=string)
    assert finish(by_variable)[0] == 0


def test_ctrl_c_ends_the_service_cleanly(
    device_app: subprocess.Popen[str], service_app: Callable[[], subprocess.Popen[str]]
) -> None:
    read_until(device_app, "Waiting for commands")
    service = service_app()
    read_until(service, "Waiting on device...")
    service.send_signal(signal.SIGINT)
    assert finish(service)[::2] == (0, "")


def test_an_update_that_fails_ends_the_service_with_its_reason(
    device_app: subprocess.Popen[str], service_app: Callable[[], subprocess.Popen[str]]
) -> None:
    read_until(device_app, "Waiting for commands")
    service = service_app()
    read_until(service, "Waiting on device...")
    device_app.send_signal(signal.SIGINT)
    status, told, errors = finish(service)
    assert status == 1
    assert "Firmware update failed" in told and "interrupted" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("name", "string", "says"),
    [
        ("fwupdate-device", "HostName=h;SharedAccessKey=c2VjcmV0c2Vj", "no DeviceId"),
        (
            "fwupdate-service",
            "HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0c2Vj",
            "of a device",
        ),
        (
            "fwupdate-service",
            "HostName=h;SharedAccessKeyName=p;SharedAccessKey=c2VjcmV0c",
            "base64",
        ),
    ],
)
def test_a_bad_connection_string_is_told_without_its_key(
    name: str, string: str, says: str, string_file: Callable[[str], str]
) -> None:
    status, told, errors = finish(app(name, "--connection-string-file", string_file(string)))
    assert status == 1 and says in errors and "Traceback" not in errors
    assert "c2VjcmV0" not in told + errors


def test_a_missing_file_and_a_device_that_is_off_are_told_in_a_sentence(tmp_path: Path) -> None:
    missing = app("fwupdate-device", "--connection-string-file", str(tmp_path / "none"))
    status, _, errors = finish(missing)
    assert status == 1 and "cannot be read" in errors and "Traceback" not in errors

    service = app("fwupdate-service", "--device-id", "nobody")
    status, _, errors = finish(service)
    assert status == 1 and "no device nobody" in errors and "Traceback" not in errors


@pytest.mark.parametrize("name", ["fwupdate-device", "fwupdate-service"])
def test_help_tells_every_option(name: str) -> None:
    status, told, _ = finish(app(name, "--help"))
    assert status == 0
    for option in ("--connection-string-file", "--ca-file", "--device-id"):
        assert option in told
