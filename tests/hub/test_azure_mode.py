"""What `connect_hub` does with a connection string, against a hub that the kit did not start.

The hub stands in for one on Azure; with `make test-azure` it is one. See `tests.azure_mode`.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from azure.iot.hub.models import QuerySpecification

from fwupdate_helpers.errors import HubUnavailable
from fwupdate_helpers.hub import Hub, connect_hub
from fwupdate_helpers.settings import ATTENDEE_VARIABLE
from tests.azure_mode import HTTPS_PORT, AzureMode, azure_mode, is_real, program_environment
from tests.support import may_listen, missing_tool

UPDATE = """
from fwupdate_helpers import *

hub = connect_hub()
print(hub.kind, hub.device_options, "an IoT Hub on Azure" in hub._repr_html_())
device_id = hub.device_id("azure-mode")
string = hub.device_connection_string(device_id)
with SimulatedDevice(string, stage_seconds=0.05, **hub.device_options):
    update = invoke_firmware_update(hub.registry, device_id)
    twin = wait_for_update(hub.registry, device_id, update.update_id, timeout=60, interval=0.05)
print(twin.properties.reported["firmwareStatus"])
hub.delete_kit_devices()
hub.close()
"""
stand_in_only = pytest.mark.skipif(is_real(), reason="about the hub that stands in for Azure")


def run_update(mode: AzureMode, **more: str) -> list[str]:
    """Run an update in a program of its own; return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", UPDATE],
        env={**program_environment(mode), **more},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def mode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureMode]:
    with azure_mode(tmp_path_factory.mktemp("azure")) as mode:
        yield mode


@pytest.fixture
def hub(mode: AzureMode, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name, value in mode.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(ATTENDEE_VARIABLE, f"test-{uuid.uuid4().hex[:8]}")
    with connect_hub() as hub:
        yield hub


@pytest.mark.parametrize("port", [None, HTTPS_PORT])
def test_an_update_runs_on_a_hub_that_is_only_known_by_its_connection_string(
    tmp_path: Path, port: int | None
) -> None:
    if port and not is_real() and not may_listen(port):
        missing_tool(f"this user may not listen on port {port}")
    with azure_mode(tmp_path, port=port) as mode:
        assert run_update(mode) == ["azure {} True", "completed"]
        if port:
            told = run_update(mode, FWUPDATE_IOTHUB_WEBSOCKETS="1")
            assert told == ["azure {'websockets': True} True", "completed"]
    assert not (tmp_path / "unused").exists(), "no local hub was started"


@stand_in_only
def test_nothing_is_there_that_only_local_hubs_have(hub: Hub) -> None:
    for method, path in (
        ("GET", "/$localhub/faults"),
        ("POST", "/$localhub/images/a.fw"),
        ("GET", "/firmware/token/a.fw?api-version=2021-04-12"),
    ):
        assert hub.local_request(method, path).status_code == 404, path
    kept = hub.local_request("GET", "/$localhub/trace").json()
    assert (kept["on"], kept["rows"]) == (False, [])
    assert hub.tier == "F1"


@stand_in_only
def test_the_hub_is_trusted_through_the_environment_and_in_no_other_way(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.registry.get_devices() == []
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(requests.exceptions.SSLError):
        hub.local_request("GET", "/$localhub/status")
    with connect_hub() as untrusting, pytest.raises(HubUnavailable, match="does not trust"):
        untrusting.device_connection_string("any")


@stand_in_only
def test_a_query_that_is_refused_with_429_is_asked_again_and_that_is_seen(hub: Hub) -> None:
    question = QuerySpecification(query="SELECT deviceId FROM devices WHERE deviceId = 'nobody'")
    for _ in range(60):
        assert hub.patiently(hub.registry.query_iot_hub, question).items == []
        if hub.retries.count:
            break
    assert {retry.cause for retry in hub.retries} == {429001}
    assert "429001" in hub.retries._repr_html_()


def test_the_clean_up_leaves_the_devices_of_others(hub: Hub) -> None:
    foreign = f"foreign-{uuid.uuid4().hex[:8]}"
    hub.registry.create_device_with_sas(foreign, None, None, "enabled")
    try:
        mine = hub.device_id("pump")
        hub.device_connection_string(mine)
        assert wait_until_listed(hub, mine)
        assert list(hub.delete_kit_devices()) == [mine]
        left = {device.device_id for device in hub.registry.get_devices(1000)}
        assert foreign in left and mine not in left
    finally:
        hub.delete_device(foreign)


def wait_until_listed(hub: Hub, device_id: str) -> bool:
    """Queries of a hub on Azure lag behind; tell whether a device is listed within some time."""
    return any(device_id in hub.kit_devices() for _ in range(40 if is_real() else 1))
