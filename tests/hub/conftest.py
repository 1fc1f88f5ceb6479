"""Clients of the hub: devices that speak bare MQTT, and those of the SDKs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient

from fwupdate_helpers.device import SimulatedDevice
from tests.downloads import SMALL
from tests.image_server import ImageServer
from tests.images import Publisher, hub_of
from tests.raw_mqtt import OpenDevice, RawDevice
from tests.rest import create_device
from tests.rollouts import Bench
from tests.sdk import Connect
from tests.support import HubProcess
from tests.unruly_hub import UnrulyHub


@pytest.fixture
def open_device(hub_process: HubProcess) -> Iterator[OpenDevice]:
    """Return a function that opens a TLS connection for a device, whose identity it creates."""
    keys: dict[str, str] = {}
    with ExitStack() as stack:

        def open_one(device_id: str, *, key: str | None = None, **options: Any) -> RawDevice:
            if device_id not in keys:
                keys[device_id] = create_device(hub_process, device_id)
            key = key or keys[device_id]
            return stack.enter_context(RawDevice(hub_process, device_id, key, **options))

        yield open_one


@pytest.fixture
def registry(hub_process: HubProcess) -> Any:
    """Return a registry manager of `hub_process`."""
    return hub_process.registry()


@pytest.fixture
def connect(hub_process: HubProcess) -> Iterator[Connect]:
    """Return a function that makes a client from a connection string and connects it."""
    clients: list[IoTHubDeviceClient] = []

    def connect_one(connection_string: str, **options: Any) -> IoTHubDeviceClient:
        options = {**hub_process.device_options, "connection_retry_interval": 1, **options}
        client = IoTHubDeviceClient.create_from_connection_string(connection_string, **options)
        clients.append(client)
        client.connect()
        return client

    yield connect_one
    for client in clients:
        client.shutdown()


@pytest.fixture
def make(
    hub_process: HubProcess, new_device: Callable[[str], str], device_id: str
) -> Iterator[Callable[..., SimulatedDevice]]:
    """Return a function that makes devices of one id; they are stopped at the end."""
    string = new_device(device_id)
    made: list[SimulatedDevice] = []

    def make_one(stage_seconds: float = 0.0, **options: Any) -> SimulatedDevice:
        options = {**hub_process.device_options, **options}
        made.append(SimulatedDevice(string, stage_seconds=stage_seconds, **options))
        return made[-1]

    yield make_one
    for device in made:
        device.stop()


@pytest.fixture
def bench(hub_process: HubProcess, tmp_path: Path) -> Iterator[Bench]:
    """Return devices and rollouts of one test."""
    with hub_of(hub_process) as hub:
        bench = Bench(hub, tmp_path)
        yield bench
        bench.close()


@pytest.fixture
def publisher(hub_process: HubProcess, tmp_path: Path) -> Iterator[Publisher]:
    """Return a publisher of images, with its boards, on `hub_process`."""
    with hub_of(hub_process) as hub:
        yield Publisher(hub, tmp_path)


@pytest.fixture
def unruly(hub_process: HubProcess) -> Iterator[UnrulyHub]:
    """Return a way to `hub_process` on which requests fail as a test wants."""
    with UnrulyHub(hub_process) as hub:
        yield hub


@pytest.fixture
def server() -> Iterator[ImageServer]:
    """Return a server of a small image."""
    with ImageServer(SMALL) as one:
        yield one
