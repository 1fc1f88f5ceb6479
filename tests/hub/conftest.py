"""Devices that speak bare MQTT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.raw_mqtt import OpenDevice, RawDevice
from tests.rest import create_device
from tests.support import HubProcess


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
