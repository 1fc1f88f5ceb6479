"""No failing path tells a key: not in an error, not in a log, not in a traceback with its values.

Each row of `FAILURES` makes one call fail in one way. Whatever it raises, and whatever it and the
libraries below it log at level DEBUG, is searched for the hub's and the device's key and for any
signature, as they are and in the forms that addresses and base64 give them.
"""

from __future__ import annotations

import logging
import pickle
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.iot.hub.models import QuerySpecification

from fwupdate_helpers import connect_hub, identities, queries, retries, service
from fwupdate_helpers.connection_string import Secret, read_device_string, read_service_string
from fwupdate_helpers.device import DeviceFaults, LinkPolicy, SimulatedDevice
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.firmware.publish import publish_image, unpublish_image
from fwupdate_helpers.fleet_view import read_fleet
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.localhub.sas import new_key
from fwupdate_helpers.queries import query_twins
from fwupdate_helpers.rollout import Rollout
from fwupdate_helpers.settings import CONNECTION_STRING_VARIABLE
from tests.canary import found_in, told_by
from tests.rest import create_device, policy_key
from tests.support import HubProcess
from tests.unruly_hub import Fault, UnrulyHub

ONCE = retries.RetryPolicy.none()
NO_PATIENCE = LinkPolicy(connect_seconds=5)
BRIEF = LinkPolicy(connect_seconds=1, start_seconds=0.2, first_wait=0.05)
IMAGE = "https://127.0.0.1:1/firmware/Y2FuYXJ5LXRva2VuLW9m/a.fw"


@dataclass
class Stage:
    """What the rows use."""

    process: HubProcess
    unruly: UnrulyHub
    silent: socket.socket
    device_id: str
    device_key: str

    @property
    def service_key(self) -> str:
        return policy_key(self.process, "iothubowner")

    def string(self, host: str | None = None, key: str | None = None) -> str:
        host = host or f"{self.process.ready['device_host']}:{self.process.ready['service_port']}"
        key = key or self.service_key
        return f"HostName={host};SharedAccessKeyName=iothubowner;SharedAccessKey={key}"

    def device_string(self, host: str | None = None, key: str | None = None) -> str:
        host = host or str(self.process.ready["device_host"])
        key = key or self.device_key
        return f"HostName={host};DeviceId={self.device_id};SharedAccessKey={key}"

    def hub(self, string: str | None = None) -> Hub:
        return Hub(kind="azure", connection_string=string or self.string())

    def failing(self, *faults: Fault) -> Hub:
        self.unruly.faults[:] = faults * 20
        return self.hub(self.unruly.connection_string)

    def device(self, string: str | None = None, **options: Any) -> SimulatedDevice:
        options = {**self.process.device_options, "link_policy": NO_PATIENCE, **options}
        return SimulatedDevice(string or self.device_string(), stage_seconds=0, **options)


CALLS: dict[str, Callable[[Hub, str], object]] = {
    "device_connection_string": lambda hub, one: hub.device_connection_string(one),
    "delete_device": lambda hub, one: hub.delete_device(one),
    "mark_as_mine": lambda hub, one: hub.mark_as_mine(one),
    "kit_devices": lambda hub, one: hub.kit_devices(),
    "delete_kit_devices": lambda hub, one: hub.delete_kit_devices(),
    "patiently": lambda hub, one: hub.patiently(
        hub.registry.query_iot_hub, QuerySpecification(query="SELECT * FROM devices")
    ),
    "jobs": lambda hub, one: hub.patiently(hub.jobs.get_scheduled_job, one),
    "configurations": lambda hub, one: hub.patiently(hub.configurations.get_configuration, one),
    "invoke": lambda hub, one: service.invoke_firmware_update(
        hub.registry, one, package_uri=IMAGE, policy=ONCE, response_timeout=5
    ),
    "cancel": lambda hub, one: service.cancel_firmware_update(hub.registry, one, policy=ONCE),
    "wait": lambda hub, one: service.wait_for_update(
        hub.registry, one, "none", timeout=1, interval=0.1, policy=ONCE
    ),
    "query_twins": lambda hub, one: list(query_twins(hub.registry, "SELECT *", policy=ONCE)),
    "read_fleet": lambda hub, one: read_fleet(hub, "*", policy=ONCE),
    "rollout": lambda hub, one: Rollout(
        hub, "canary", image=IMAGE, devices="*", policy=ONCE
    ).plan(),
    "load": lambda hub, one: Rollout.load(hub, "canary", policy=ONCE),
}
WAYS: dict[str, Callable[[Stage], Hub]] = {
    "wrong host": lambda stage: stage.hub(stage.string(host="127.0.0.1:9")),
    "wrong key": lambda stage: stage.hub(stage.string(key=new_key())),
    "429": lambda stage: stage.failing(Fault(429, "ThrottlingException", {"Retry-After": "1"})),
    "500": lambda stage: stage.failing(Fault(500, "ServerError")),
    "403": lambda stage: stage.failing(Fault(403, "IotHubQuotaExceeded")),
    "404": lambda stage: stage.failing(Fault(404, "DeviceNotFound")),
    "503 in no JSON": lambda stage: stage.failing(Fault(503)),
    "cut": lambda stage: stage.failing(Fault()),
}
# A call that gets through to a hub that knows the device, and fails there.
AT_THE_HUB = {
    "unknown device": lambda stage: service.invoke_firmware_update(
        stage.hub().registry, "nobody", policy=ONCE, response_timeout=5
    ),
    "offline": lambda stage: service.invoke_firmware_update(
        stage.hub().registry, stage.device_id, policy=ONCE, response_timeout=5
    ),
    "query": lambda stage: list(query_twins(stage.hub().registry, "SELECT nonsense", policy=ONCE)),
    "timeout": lambda stage: silent_hub(stage).device_connection_string(stage.device_id),
}
STRINGS: dict[str, Callable[[Stage], str]] = {
    "no HostName": lambda stage: stage.string().replace("HostName=", "Host="),
    "an address": lambda stage: stage.string(host="https://h.azure-devices.net"),
    "a key alone": lambda stage: stage.service_key,
    "key and host changed": lambda stage: (
        f"HostName={stage.service_key};SharedAccessKeyName=p;SharedAccessKey=h"
    ),
    "a misspelt part": lambda stage: stage.string().replace("AccessKey=", "AcessKey="),
    "a cut key": lambda stage: stage.string()[:-3],
    "a device's": lambda stage: stage.device_string(),
    "a quote too much": lambda stage: f'"{stage.string()}"',
}
DEVICES: dict[str, Callable[[Stage], SimulatedDevice]] = {
    "wrong key": lambda stage: stage.device(stage.device_string(key=new_key())),
    "wrong clock": lambda stage: stage.device(faults=DeviceFaults(clock_offset=-7200)),
    "wrong host": lambda stage: stage.device(
        stage.device_string(host="127.250.250.250"), link_policy=BRIEF
    ),
    "no trust": lambda stage: stage.device(server_verification_cert=None, link_policy=BRIEF),
}


def silent_hub(stage: Stage) -> Hub:
    """Return a hub that takes connections and says nothing."""
    hub = stage.hub(stage.string(host=f"127.0.0.1:{stage.silent.getsockname()[1]}"))
    hub.registry.protocol.config.connection.timeout = 0.1
    return hub


@pytest.fixture(scope="module")
def stage(hub_process: HubProcess) -> Iterator[Stage]:
    device_id = f"canary-{uuid.uuid4().hex[:8]}"
    key = create_device(hub_process, device_id)
    with UnrulyHub(hub_process) as unruly, socket.create_server(("127.0.0.1", 0)) as silent:
        yield Stage(hub_process, unruly, silent, device_id, key)


@pytest.fixture
def told(
    stage: Stage,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[str]]:
    """Return a list for what a test has told; at its end, that and all logs are searched."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", stage.process.ca_file)
    # What fails at once is to be tried once: the way of the errors is the same.
    once = retries.RetryPolicy.none
    for module in (retries, queries):
        monkeypatch.setattr(module, "RetryPolicy", once)
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG):
        yield texts
    assert texts, "nothing has failed"
    printed = "".join(capfd.readouterr())
    keys = [stage.service_key, stage.device_key]
    for text in (*texts, caplog.text, repr([vars(one) for one in caplog.records]), printed):
        assert found_in(text, keys) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_tells_no_key(call: str, way: str, stage: Stage, told: list[str]) -> None:
    with WAYS[way](stage) as hub:
        try:
            CALLS[call](hub, stage.device_id)
        except FirmwareUpdateError as error:
            told.append(told_by(error))
        told.append(f"{hub!r} {hub} {vars(hub)} {hub.retries!r} {hub.masked_connection_string}")


@pytest.mark.parametrize("call", AT_THE_HUB)
def test_a_call_that_the_hub_refuses_tells_no_key(call: str, stage: Stage, told: list[str]) -> None:
    with pytest.raises(FirmwareUpdateError) as refused:
        AT_THE_HUB[call](stage)
    told.append(told_by(refused.value))


def test_a_certificate_that_is_not_trusted_tells_no_key(
    stage: Stage, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    for call in ("device_connection_string", "patiently", "invoke"):
        with stage.hub() as hub, pytest.raises(FirmwareUpdateError, match="trust") as refused:
            CALLS[call](hub, stage.device_id)
        told.append(told_by(refused.value))


@pytest.mark.parametrize("string", STRINGS)
def test_a_connection_string_that_is_none_tells_no_key(
    string: str, stage: Stage, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = STRINGS[string](stage)
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, text)
    told.append(f"{Secret(text)!r} {Secret(text)}")
    for read in (
        connect_hub,
        partial(read_service_string, text),
        partial(Hub, kind="azure", connection_string=text),
    ):
        with pytest.raises(FirmwareUpdateError) as refused:
            read()
        told.append(told_by(refused.value))
    if string != "a device's":
        for read in (partial(SimulatedDevice, text), partial(read_device_string, text)):
            with pytest.raises(FirmwareUpdateError) as refused:
                read()
            told.append(told_by(refused.value))


@pytest.mark.parametrize("way", DEVICES)
def test_a_device_that_does_not_get_in_tells_no_key(
    way: str, stage: Stage, told: list[str]
) -> None:
    device = DEVICES[way](stage)
    with pytest.raises(FirmwareUpdateError) as refused:
        device.start()
    told.append(told_by(refused.value))
    told.append(f"{device!r} {list(device.events)} {vars(device)} {device.error!r}")
    device.stop()


def test_an_image_that_cannot_be_published_tells_no_key(
    stage: Stage, told: list[str], tmp_path: Path
) -> None:
    image = tmp_path / "a.fw"
    image.write_bytes(b"image")
    local = partial(Hub, kind="local", ca_file=Path(stage.process.ca_file))
    for string in (stage.string(host="127.0.0.1:9"), stage.string(key=new_key())):
        hub = local(connection_string=string)
        for action in (
            partial(publish_image, hub, image),
            partial(unpublish_image, hub, f"https://{hub.host_name}/firmware/canary-token/a.fw"),
        ):
            with pytest.raises(FirmwareUpdateError) as refused:
                action()
            told.append(told_by(refused.value))


def test_nothing_that_is_shown_or_pickled_holds_a_key(stage: Stage, told: list[str]) -> None:
    with stage.hub() as hub:
        string = hub.device_connection_string(stage.device_id)
        device = stage.device(string)
        managers = (hub.registry, hub.jobs, hub.configurations)
        shown = (hub, string, device, device._setup, *managers, *(vars(one) for one in managers))
        told += [f"{one!r} {one} {one!s:>10}" for one in shown]
        told.append(repr(hub._repr_html_()) + repr(vars(hub)))
        told.append(repr([identities.new_key(), replace(device._setup, stage_seconds=1)]))
        with pytest.raises(TypeError, match="not copied"):
            pickle.dumps(hub)


def test_the_search_itself_finds_what_is_hidden(stage: Stage) -> None:
    from base64 import b64encode
    from urllib.parse import quote

    key = stage.service_key
    for text in (
        f"x{key}x",
        quote(key, safe=""),
        quote(quote(key, safe=""), safe=""),
        *(b64encode(f"{'a' * shift}{key};{'b' * shift}".encode()).decode() for shift in range(4)),
        "sr=a&sig=abcdefghijklmnop%3D&se=1",
        "sr%3Da%26sig%3Dabcdefghijklmnop",
    ):
        assert found_in(text, [key]), text
    assert found_in("sr=a&sig=***&se=1 HostName=h;SharedAccessKey=***", [key]) == []
