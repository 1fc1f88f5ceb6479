"""The routes that make, list and clear faults; an IoT Hub on Azure has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from fwupdate_helpers.localhub.error_responses import Handler
from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.fault_specs import CorruptImage, FaultOrder
from fwupdate_helpers.localhub.fault_wire import Devices, WireFaults
from fwupdate_helpers.localhub.images import ImageStore
from fwupdate_helpers.localhub.jsontext import dumps, loads_object
from fwupdate_helpers.localhub.store import Store


class FaultRoute:
    """``GET``, ``POST`` and ``DELETE /$localhub/faults``, and one fault by its id."""

    def __init__(
        self, faults: WireFaults, devices: Devices, store: Store, images: ImageStore
    ) -> None:
        self._faults = faults
        self._devices = devices
        self._store = store
        self._images = images

    def add_routes(self, router: web.UrlDispatcher, guarded: Callable[[Handler], Handler]) -> None:
        """Add the routes, unless faults are off; `guarded` lets services alone in."""
        if not self._faults.on:
            return
        every, one = "/$localhub/faults", "/$localhub/faults/{fault_id}"
        router.add_route("GET", every, guarded(self._list))
        router.add_route("POST", every, guarded(self._add))
        router.add_route("DELETE", every, guarded(self._clear))
        router.add_route("GET", one, guarded(self._get))
        router.add_route("DELETE", one, guarded(self._clear))

    async def _list(self, request: web.Request) -> web.Response:
        return _json({"faults": [fault.to_json() for fault in self._faults.book]})

    async def _add(self, request: web.Request) -> web.Response:
        order = FaultOrder.from_json(loads_object(await request.read()))
        self._check_device(getattr(order.spec, "device_id", None))
        self._check_image(order)
        return _json(self._faults.start(order, self._devices).to_json())

    def _check_device(self, device_id: str | None) -> None:
        if device_id is not None:
            self._store.get(device_id)

    def _check_image(self, order: FaultOrder) -> None:
        image = getattr(order.spec, "image", None)
        if image is None:
            return
        token, name = image.split("/")[-2:]
        try:
            with self._images.reading(token, name) as (found, _):
                size = found.size
        except HubError as error:  # its 404 would look like a hub without this route
            raise HubError(ARGUMENT_INVALID, error.message) from error
        if isinstance(order.spec, CorruptImage) and order.spec.offset(size) >= size:
            raise HubError(ARGUMENT_INVALID, f"The image has {size} bytes, so 'at' is beyond it.")

    async def _get(self, request: web.Request) -> web.Response:
        return self._state(request.match_info["fault_id"])

    async def _clear(self, request: web.Request) -> web.Response:
        fault_id = request.match_info.get("fault_id")
        self._faults.clear(fault_id)
        return web.Response(status=204) if fault_id is None else self._state(fault_id)

    def _state(self, fault_id: str) -> web.Response:
        """Tell of a fault that is active or ended lately; of another one, that it is gone."""
        fault = self._faults.book.find(fault_id)
        return web.Response(status=204) if fault is None else _json(fault.to_json())


def _json(content: Any) -> web.Response:
    return web.Response(text=dumps(content), content_type="application/json")
