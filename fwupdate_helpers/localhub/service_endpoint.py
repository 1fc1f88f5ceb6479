"""The service endpoint: IoT Hub's REST API as azure-iot-hub 2.7 calls it.

Source of routes, statuses and headers: the SDK's generated operations (API version 2021-04-12)
and Microsoft's service.json; error bodies as seen in public captures.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from aiohttp import web

from fwupdate_helpers.localhub import throttled_routes
from fwupdate_helpers.localhub.authentication import (
    REGISTRY_READ,
    REGISTRY_WRITE,
    SERVICE_CONNECT,
    Authenticator,
)
from fwupdate_helpers.localhub.configuration_route import ConfigurationRoute
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.error_responses import (
    MAX_BODY,
    Handler,
    errors_as_json,
    method_error,
)
from fwupdate_helpers.localhub.errors import (
    ARGUMENT_INVALID,
    DEVICE_NOT_FOUND,
    INVALID_PROTOCOL_VERSION,
    NOT_IMPLEMENTED,
    ROUTE_NOT_FOUND,
    HubError,
)
from fwupdate_helpers.localhub.etags import check_etag
from fwupdate_helpers.localhub.fault_route import FaultRoute
from fwupdate_helpers.localhub.fault_wire import WireFaults
from fwupdate_helpers.localhub.http_trace import OWN_ROUTES, HttpTrace
from fwupdate_helpers.localhub.identities import (
    check_device_id,
    identity_fields,
    identity_json,
    twin_json,
)
from fwupdate_helpers.localhub.image_endpoint import ImageEndpoint
from fwupdate_helpers.localhub.images import ImageStore
from fwupdate_helpers.localhub.job_route import JobRoute
from fwupdate_helpers.localhub.jsontext import dumps, loads_object
from fwupdate_helpers.localhub.methods import DirectMethods, MethodRequest
from fwupdate_helpers.localhub.query_route import QueryRoute
from fwupdate_helpers.localhub.registry_route import RegistryRoute
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.trace_route import TraceRoute
from fwupdate_helpers.localhub.twin_changes import TwinChanges
from fwupdate_helpers.localhub.twins import Twin
from fwupdate_helpers.localhub.websocket_endpoint import WebSocketEndpoint
from fwupdate_helpers.localhub.wiretrace import WireTrace

Json = dict[str, Any]

NOT_BUILT: Final = (
    ("*", "/devices/{id}/modules", "modules"),
    ("*", "/devices/{id}/modules/{mid}", "module identities"),
    ("*", "/twins/{id}/modules/{mid}", "module twins"),
    ("POST", "/twins/{id}/modules/{mid}/methods", "module methods"),
    ("POST", "/devices/{id}/applyConfigurationContent", "edge configurations"),
    ("DELETE", "/devices/{id}/commands", "cloud-to-device messages"),
    ("*", "/devices/{id}/messages/{way:.+}", "messages over HTTPS"),
    ("*", "/devices/{id}/files", "file uploads"),
    ("*", "/devices/{id}/files/{step:.+}", "file uploads"),
    ("*", "/messages/serviceBound/feedback", "message feedback"),
    ("*", "/messages/serviceBound/feedback/{token}", "message feedback"),
    ("*", "/messages/serviceBound/feedback/{token}/abandon", "message feedback"),
    ("*", "/jobs", "import and export jobs"),
    ("*", "/jobs/{id}", "import and export jobs"),
    ("*", "/digitaltwins/{id}", "digital twins"),
    ("POST", "/digitaltwins/{id}/commands/{name}", "digital twin commands"),
    ("POST", "/digitaltwins/{id}/components/{path}/commands/{name}", "digital twin commands"),
)
"""Routes that IoT Hub has and the local hub does not."""


class ServiceEndpoint:
    """The REST API over a store, the published images and the device endpoint.

    Args:
        jobs: The routes of scheduled jobs.
        queries: The route that answers queries.
        configurations: The routes of automatic device configurations.
        trace: Where requests and answers are noted.
        about: Returns what ``GET /$localhub/status`` answers.
        stop: Called by ``POST /$localhub/stop``.
        used: Called on every authenticated request.
    """

    def __init__(
        self,
        store: Store,
        devices: DeviceEndpoint,
        methods: DirectMethods,
        images: ImageStore,
        authenticator: Authenticator,
        *,
        jobs: JobRoute,
        configurations: ConfigurationRoute,
        queries: QueryRoute,
        trace: WireTrace,
        faults: WireFaults,
        about: Callable[[], Json],
        stop: Callable[[], None],
        used: Callable[[], None],
    ) -> None:
        self._store = store
        self._devices = devices
        self._methods = methods
        self._throttle = devices.throttle
        self._twins = TwinChanges(store, devices)
        self._images = ImageEndpoint(images, faults=faults, used=used)
        self._authenticator = authenticator
        self._job_route = jobs
        self._query_route = queries
        self._faults = faults
        self._configuration_route = configurations
        self._registry_route = RegistryRoute(store, devices)
        self._websockets = WebSocketEndpoint(devices.new_connection)
        self._fault_route = FaultRoute(faults, devices, store, images)
        self._trace, self._trace_route = HttpTrace(trace), TraceRoute(trace)
        self._about = about
        self._stop = stop
        self._used = used

    def application(self) -> web.Application:
        """Return the aiohttp application with all routes."""
        middlewares = [self._trace.middleware, errors_as_json]
        app = web.Application(client_max_size=MAX_BODY, middlewares=middlewares)
        route = app.router.add_route
        route("GET", "/devices", self._guarded(REGISTRY_READ, self._list_devices))
        route("GET", "/devices/{id}", self._guarded(REGISTRY_READ, self._get_device))
        route("PUT", "/devices/{id}", self._guarded(REGISTRY_WRITE, self._put_device))
        route("DELETE", "/devices/{id}", self._guarded(REGISTRY_WRITE, self._delete_device))
        self._registry_route.add_routes(app.router, self._guarded)
        route("GET", "/twins/{id}", self._guarded(SERVICE_CONNECT, self._get_twin))
        route("PATCH", "/twins/{id}", self._guarded(SERVICE_CONNECT, self._patch_twin))
        route("PUT", "/twins/{id}", self._guarded(SERVICE_CONNECT, self._replace_twin))
        route("POST", "/twins/{id}/methods", self._guarded(SERVICE_CONNECT, self._invoke_method))
        route("GET", "/$localhub/status", self._guarded(SERVICE_CONNECT, self._get_status))
        route("POST", "/$localhub/stop", self._guarded(REGISTRY_WRITE, self._post_stop))
        self._job_route.add_routes(app.router, self._guarded)
        self._configuration_route.add_routes(app.router, partial(self._guarded, SERVICE_CONNECT))
        self._query_route.add_routes(app.router, partial(self._guarded, SERVICE_CONNECT))
        self._trace_route.add_routes(app.router, partial(self._guarded, SERVICE_CONNECT))
        self._fault_route.add_routes(app.router, partial(self._guarded, SERVICE_CONNECT))
        self._websockets.add_routes(app.router)
        self._images.add_routes(app.router, partial(self._guarded, REGISTRY_WRITE))
        for method, path, name in NOT_BUILT:
            route(method, path, self._guarded(SERVICE_CONNECT, _not_built(name)))
        route("*", "/{anything:.*}", self._guarded(SERVICE_CONNECT, _no_such_route))
        return app

    def _guarded(self, permission: str | frozenset[str], handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._authenticator.check_service(
                request.headers.get("Authorization"), request.path, permission
            )
            self._used()
            own_route = request.path.startswith(OWN_ROUTES)
            if not own_route and not request.query.get("api-version"):
                raise HubError(INVALID_PROTOCOL_VERSION, "The query lacks 'api-version'.")
            await self._trace.authenticated(request)
            refusal = None if own_route else self._faults.refusal(request)
            return await self._within_limits(request, handler) if refusal is None else refusal

        return guarded

    async def _within_limits(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            await throttled_routes.admit(self._throttle, request)
        except HubError as error:
            if request.path.endswith("/methods"):
                return method_error(error)
            raise
        answer = await handler(request)
        throttled_routes.charge(self._throttle, request, answer)
        return answer

    # -- the hub itself -----------------------------------------------------------------------

    async def _get_status(self, request: web.Request) -> web.Response:
        return _json(self._about())

    async def _post_stop(self, request: web.Request) -> web.Response:
        self._stop()
        return _json({"stopping": True})

    # -- identities ---------------------------------------------------------------------------

    async def _list_devices(self, request: web.Request) -> web.Response:
        top = request.query.get("top", "")
        limit = int(top) if re.fullmatch(r"[0-9]{1,4}", top) and 1 <= int(top) <= 1000 else 1000
        return _json([identity_json(identity) for identity in self._store.list(limit)])

    async def _get_device(self, request: web.Request) -> web.Response:
        return _json(identity_json(self._store.get(_device_id(request))))

    async def _put_device(self, request: web.Request) -> web.Response:
        device_id = _device_id(request)
        body = loads_object(await request.read())
        if body.get("deviceId", device_id) != device_id:
            raise HubError(ARGUMENT_INVALID, "The deviceId of the body is not that of the path.")
        if "If-Match" not in request.headers:
            identity = self._store.create(device_id, **identity_fields(body, None))
        else:
            before = self._store.get(device_id)
            _check_etag(request, before.etag)
            identity = self._store.update(device_id, **identity_fields(body, before))
            if not identity.enabled:
                self._devices.disconnect(device_id, "the device identity was disabled")
        return _json(identity_json(identity))

    async def _delete_device(self, request: web.Request) -> web.Response:
        device_id = _device_id(request)
        _check_etag(request, self._store.get(device_id).etag)
        self._devices.forget(device_id)
        self._store.delete(device_id)
        return web.Response(status=204)

    # -- twins --------------------------------------------------------------------------------

    async def _get_twin(self, request: web.Request) -> web.Response:
        device_id = _device_id(request)
        return self._twin(device_id, self._store.twin(device_id))

    async def _patch_twin(self, request: web.Request) -> web.Response:
        return await self._change_twin(request, self._twins.patch)

    async def _replace_twin(self, request: web.Request) -> web.Response:
        return await self._change_twin(request, self._twins.replace)

    async def _change_twin(
        self, request: web.Request, change: Callable[[str, Json], Twin]
    ) -> web.Response:
        device_id = _device_id(request)
        content = loads_object(await request.read())
        _check_etag(request, self._store.twin(device_id).etag)
        return self._twin(device_id, change(device_id, content))

    def _twin(self, device_id: str, twin: Twin) -> web.Response:
        return _json(twin_json(self._store.get(device_id), twin))

    # -- direct methods -----------------------------------------------------------------------

    async def _invoke_method(self, request: web.Request) -> web.Response:
        try:
            device_id = _device_id(request)
            method = MethodRequest.from_json(loads_object(await request.read()))
            if not self._store.get(device_id).enabled:
                raise HubError(DEVICE_NOT_FOUND, f"The device '{device_id}' is disabled.")
            answer = await self._methods.invoke(
                self._devices, device_id, method, is_wanted=lambda: _waits(request)
            )
            return _json(answer)
        except HubError as error:
            return method_error(error)


def _waits(request: web.Request) -> bool:
    """Tell whether the client still waits for the answer."""
    return request.transport is not None and not request.transport.is_closing()


def _not_built(name: str) -> Handler:
    async def refuse(request: web.Request) -> web.Response:
        raise HubError(
            NOT_IMPLEMENTED,
            f"The local hub does not offer {name} ({request.method} {request.path}); "
            "a real IoT Hub does.",
        )

    return refuse


async def _no_such_route(request: web.Request) -> web.Response:
    raise HubError(ROUTE_NOT_FOUND, f"IoT Hub has no route {request.method} {request.path}.")


def _device_id(request: web.Request) -> str:
    return check_device_id(request.match_info["id"])


def _check_etag(request: web.Request, etag: str) -> None:
    check_etag(request.headers.get("If-Match", "*"), etag)


def _json(content: Any) -> web.Response:
    return web.Response(text=dumps(content), content_type="application/json")
