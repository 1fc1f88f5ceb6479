"""The routes about the registry as a whole: bulk calls and statistics.

Source: the operations ``bulk_registry`` and ``statistics`` of azure-iot-hub 2.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from fwupdate_helpers.localhub.authentication import (
    REGISTRY_READ,
    REGISTRY_WRITE,
    SERVICE_CONNECT,
)
from fwupdate_helpers.localhub.bulk_registry import BulkRegistry
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.error_responses import Handler
from fwupdate_helpers.localhub.errors import BULK_REGISTRY_OPERATION_FAILURE, NAMES
from fwupdate_helpers.localhub.jsontext import dumps, loads
from fwupdate_helpers.localhub.store import Store


class RegistryRoute:
    """``POST /devices``, ``GET /statistics/devices`` and ``GET /statistics/service``."""

    def __init__(self, store: Store, devices: DeviceEndpoint) -> None:
        self._store = store
        self._devices = devices
        self._bulk = BulkRegistry(store, devices)

    def add_routes(
        self, router: web.UrlDispatcher, guarded: Callable[[str, Handler], Handler]
    ) -> None:
        """Add the routes; `guarded` lets in who has the permission."""
        router.add_route("POST", "/devices", guarded(REGISTRY_WRITE, self._post_devices))
        router.add_route("GET", "/statistics/devices", guarded(REGISTRY_READ, self._registry))
        router.add_route("GET", "/statistics/service", guarded(SERVICE_CONNECT, self._service))

    async def _post_devices(self, request: web.Request) -> web.Response:
        result = self._bulk.apply(loads(await request.read()))
        if result["isSuccessful"]:
            return _json(result)
        # The SDK raises nothing for this 400: it returns the result.
        headers = {"iothub-errorcode": NAMES[BULK_REGISTRY_OPERATION_FAILURE]}
        return _json(result, status=400, headers=headers)

    async def _registry(self, request: web.Request) -> web.Response:
        counts = self._store.count_by_status()
        return _json(
            {
                "totalDeviceCount": sum(counts.values()),
                "enabledDeviceCount": counts.get("enabled", 0),
                "disabledDeviceCount": counts.get("disabled", 0),
            }
        )

    async def _service(self, request: web.Request) -> web.Response:
        return _json({"connectedDeviceCount": self._devices.connected_count})


def _json(content: Any, **options: Any) -> web.Response:
    return web.Response(text=dumps(content), content_type="application/json", **options)
