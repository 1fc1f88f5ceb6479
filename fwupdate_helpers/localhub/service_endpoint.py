"""The service endpoint: IoT Hub's REST API as azure-iot-hub 2.7 calls it.

Source of routes, statuses and headers: the SDK's generated operations (API version 2021-04-12)
and Microsoft's service.json; error bodies as seen in public captures.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any, Final

from aiohttp import web

from fwupdate_helpers.localhub.authentication import (
    REGISTRY_READ,
    REGISTRY_WRITE,
    SERVICE_CONNECT,
    Authenticator,
)
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.errors import (
    ARGUMENT_INVALID,
    DEVICE_NOT_FOUND,
    INVALID_PROTOCOL_VERSION,
    MESSAGE_TOO_LARGE,
    NOT_IMPLEMENTED,
    PRECONDITION_FAILED,
    ROUTE_NOT_FOUND,
    SERVER_ERROR,
    HubError,
)
from fwupdate_helpers.localhub.jsontext import dumps, loads_object
from fwupdate_helpers.localhub.methods import DirectMethods, MethodRequest
from fwupdate_helpers.localhub.sas import is_key, new_key
from fwupdate_helpers.localhub.store import Identity, Store
from fwupdate_helpers.localhub.twins import (
    Twin,
    desired_patch,
    patch_by_service,
    replace_by_service,
)

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY: Final = 1024 * 1024
_DEVICE_ID = re.compile(r"[A-Za-z0-9\-.%_*?!(),:=@$']{1,128}")
_AUTHENTICATION_TYPES = ("sas", "selfSigned", "certificateAuthority", "none")

NOT_BUILT: Final = (
    ("POST", "/devices", "bulk registry operations"),
    ("POST", "/devices/query", "queries"),
    ("GET", "/statistics/{kind}", "statistics"),
    ("*", "/devices/{id}/modules", "modules"),
    ("*", "/devices/{id}/modules/{mid}", "module identities"),
    ("*", "/twins/{id}/modules/{mid}", "module twins"),
    ("POST", "/twins/{id}/modules/{mid}/methods", "module methods"),
    ("POST", "/devices/{id}/applyConfigurationContent", "edge configurations"),
    ("DELETE", "/devices/{id}/commands", "cloud-to-device messages"),
    ("*", "/messages/serviceBound/feedback", "message feedback"),
    ("*", "/messages/serviceBound/feedback/{token}", "message feedback"),
    ("*", "/messages/serviceBound/feedback/{token}/abandon", "message feedback"),
    ("*", "/configurations", "automatic device configurations"),
    ("*", "/configurations/{id}", "automatic device configurations"),
    ("*", "/jobs", "import and export jobs"),
    ("*", "/jobs/{id}", "import and export jobs"),
    ("*", "/jobs/v2/{id}", "scheduled jobs"),
    ("POST", "/jobs/v2/{id}/cancel", "scheduled jobs"),
    ("*", "/digitaltwins/{id}", "digital twins"),
    ("POST", "/digitaltwins/{id}/commands/{name}", "digital twin commands"),
    ("POST", "/digitaltwins/{id}/components/{path}/commands/{name}", "digital twin commands"),
)
"""Routes that the SDK has and the local hub does not."""


class ServiceEndpoint:
    """The REST API over a store and the device endpoint.

    Args:
        about: Returns what ``GET /$localhub/status`` answers.
        stop: Called by ``POST /$localhub/stop``.
        used: Called on every authenticated request.
    """

    def __init__(
        self,
        store: Store,
        devices: DeviceEndpoint,
        methods: DirectMethods,
        authenticator: Authenticator,
        *,
        about: Callable[[], Json],
        stop: Callable[[], None],
        used: Callable[[], None],
    ) -> None:
        self._store = store
        self._devices = devices
        self._methods = methods
        self._authenticator = authenticator
        self._about = about
        self._stop = stop
        self._used = used

    def application(self) -> web.Application:
        """Return the aiohttp application with all routes."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors_as_json])
        route = app.router.add_route
        route("GET", "/devices", self._guarded(REGISTRY_READ, self._list_devices))
        route("GET", "/devices/{id}", self._guarded(REGISTRY_READ, self._get_device))
        route("PUT", "/devices/{id}", self._guarded(REGISTRY_WRITE, self._put_device))
        route("DELETE", "/devices/{id}", self._guarded(REGISTRY_WRITE, self._delete_device))
        route("GET", "/twins/{id}", self._guarded(SERVICE_CONNECT, self._get_twin))
        route("PATCH", "/twins/{id}", self._guarded(SERVICE_CONNECT, self._patch_twin))
        route("PUT", "/twins/{id}", self._guarded(SERVICE_CONNECT, self._replace_twin))
        route("POST", "/twins/{id}/methods", self._guarded(SERVICE_CONNECT, self._invoke_method))
        route("GET", "/$localhub/status", self._guarded(SERVICE_CONNECT, self._get_status))
        route("POST", "/$localhub/stop", self._guarded(REGISTRY_WRITE, self._post_stop))
        for method, path, name in NOT_BUILT:
            route(method, path, self._guarded(SERVICE_CONNECT, _not_built(name)))
        route("*", "/{anything:.*}", self._guarded(SERVICE_CONNECT, _no_such_route))
        return app

    def _guarded(self, permission: str, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._authenticator.check_service(
                request.headers.get("Authorization"), request.path, permission
            )
            self._used()
            own_route = request.path.startswith("/$localhub/")
            if not own_route and not request.query.get("api-version"):
                raise HubError(INVALID_PROTOCOL_VERSION, "The query lacks 'api-version'.")
            return await handler(request)

        return guarded

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
        return _json([_identity_json(identity) for identity in self._store.list(limit)])

    async def _get_device(self, request: web.Request) -> web.Response:
        return _json(_identity_json(self._store.get(_device_id(request))))

    async def _put_device(self, request: web.Request) -> web.Response:
        device_id = _device_id(request)
        body = loads_object(await request.read())
        if body.get("deviceId", device_id) != device_id:
            raise HubError(ARGUMENT_INVALID, "The deviceId of the body is not that of the path.")
        if "If-Match" not in request.headers:
            identity = self._store.create(device_id, **_identity_fields(body, None))
        else:
            before = self._store.get(device_id)
            _check_etag(request, before.etag)
            identity = self._store.update(device_id, **_identity_fields(body, before))
            if not identity.enabled:
                self._devices.disconnect(device_id, "the device identity was disabled")
        return _json(_identity_json(identity))

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
        device_id = _device_id(request)
        patch = loads_object(await request.read())
        before = self._store.twin(device_id)
        _check_etag(request, before.etag)
        twin = patch_by_service(before, patch, self._store.now())
        return self._save_twin(device_id, twin, desired_patch(patch))

    async def _replace_twin(self, request: web.Request) -> web.Response:
        device_id = _device_id(request)
        content = loads_object(await request.read())
        before = self._store.twin(device_id)
        _check_etag(request, before.etag)
        twin, patch = replace_by_service(before, content, self._store.now())
        return self._save_twin(device_id, twin, patch)

    def _save_twin(self, device_id: str, twin: Twin, patch: Json | None) -> web.Response:
        self._store.save_twin(device_id, twin)
        if patch is not None:
            self._devices.send_desired(device_id, patch, twin.desired.version)
        return self._twin(device_id, twin)

    def _twin(self, device_id: str, twin: Twin) -> web.Response:
        return _json(_twin_json(self._store.get(device_id), twin))

    # -- direct methods -----------------------------------------------------------------------

    async def _invoke_method(self, request: web.Request) -> web.Response:
        try:
            device_id = _device_id(request)
            method = MethodRequest.from_json(loads_object(await request.read()))
            if not self._store.get(device_id).enabled:
                raise HubError(DEVICE_NOT_FOUND, f"The device '{device_id}' is disabled.")
            return _json(await self._methods.invoke(self._devices, device_id, method))
        except HubError as error:
            return _method_error(error)


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
    device_id = request.match_info["id"]
    if not _DEVICE_ID.fullmatch(device_id):
        raise HubError(
            ARGUMENT_INVALID,
            "A device id has 1 to 128 ASCII letters, digits and - . % _ * ? ! ( ) , : = @ $ '",
        )
    return device_id


def _check_etag(request: web.Request, etag: str) -> None:
    # The SDK's managers differ: '"etag"', 'etag', '"*"' and '*' all occur.
    wanted = request.headers.get("If-Match", "*").strip().strip('"')
    if wanted not in ("*", etag):
        raise HubError(
            PRECONDITION_FAILED, "Precondition failed: the ETag is not that of the current version."
        )


def _identity_fields(body: Json, before: Identity | None) -> Json:
    status = body.get("status") or "enabled"
    reason, capabilities = body.get("statusReason"), body.get("capabilities")
    if status not in ("enabled", "disabled"):
        raise HubError(ARGUMENT_INVALID, "status must be 'enabled' or 'disabled'.")
    if reason is not None and not (isinstance(reason, str) and len(reason) <= 128):
        raise HubError(ARGUMENT_INVALID, "statusReason must be a text of at most 128 characters.")
    edge = bool(capabilities.get("iotEdge")) if isinstance(capabilities, dict) else False
    return {
        "status": status,
        "status_reason": reason,
        "authentication": _authentication(body.get("authentication"), before),
        "capabilities": {"iotEdge": edge},
    }


def _authentication(given: Any, before: Identity | None) -> Json:
    if given is None and before is not None:
        return before.authentication
    given = given or {}
    if not isinstance(given, dict) or given.get("type", "sas") not in _AUTHENTICATION_TYPES:
        raise HubError(
            ARGUMENT_INVALID, f"authentication.type must be one of {_AUTHENTICATION_TYPES}."
        )
    kind = given.get("type", "sas")
    keys, thumbprints = given.get("symmetricKey") or {}, given.get("x509Thumbprint") or {}
    if not isinstance(keys, dict) or not isinstance(thumbprints, dict):
        raise HubError(ARGUMENT_INVALID, "symmetricKey and x509Thumbprint must be objects.")
    if not all(isinstance(one, (str, type(None))) for one in thumbprints.values()):
        raise HubError(ARGUMENT_INVALID, "A thumbprint must be a text.")
    return {
        "symmetricKey": {
            name: _key(keys.get(name), generate=kind == "sas")
            for name in ("primaryKey", "secondaryKey")
        },
        "x509Thumbprint": {
            name: thumbprints.get(name) for name in ("primaryThumbprint", "secondaryThumbprint")
        },
        "type": kind,
    }


def _key(given: Any, *, generate: bool) -> str | None:
    if given in (None, ""):
        return new_key() if generate else None
    if not is_key(given):
        raise HubError(ARGUMENT_INVALID, "A symmetric key must be base64 of 16 to 64 bytes.")
    return str(given)


def _identity_json(identity: Identity) -> Json:
    return {
        "deviceId": identity.device_id,
        "generationId": identity.generation_id,
        "etag": identity.etag,
        "connectionState": identity.connection_state,
        "status": identity.status,
        "statusReason": identity.status_reason,
        "connectionStateUpdatedTime": identity.connection_state_updated_time,
        "statusUpdatedTime": identity.status_updated_time,
        "lastActivityTime": identity.last_activity_time,
        "cloudToDeviceMessageCount": 0,
        "authentication": identity.authentication,
        "capabilities": identity.capabilities,
    }


def _twin_json(identity: Identity, twin: Twin) -> Json:
    content = {
        "deviceId": identity.device_id,
        "etag": twin.etag,
        "deviceEtag": identity.etag,
        "status": identity.status,
        "statusUpdateTime": identity.status_updated_time,
        "connectionState": identity.connection_state,
        "lastActivityTime": identity.last_activity_time,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": identity.authentication["type"],
        "x509Thumbprint": identity.authentication["x509Thumbprint"],
        "modelId": "",
        "version": twin.version,
        "tags": twin.tags,
        "properties": {
            "desired": twin.desired.for_service(),
            "reported": twin.reported.for_service(),
        },
        "capabilities": identity.capabilities,
    }
    if identity.status_reason is not None:
        content["statusReason"] = identity.status_reason
    return content


def _json(content: Any) -> web.Response:
    return web.Response(text=dumps(content), content_type="application/json")


def _tracking_id() -> tuple[str, datetime]:
    now = datetime.now(timezone.utc)
    return f"{secrets.token_hex(16)}-G:0-TimeStamp:{now:%m/%d/%Y %H:%M:%S}", now


def _error(error: HubError) -> web.Response:
    tracking_id, _ = _tracking_id()
    return _error_response(
        error,
        {
            "Message": f"ErrorCode:{error.name};{error.message}",
            "ExceptionMessage": f"Tracking ID:{tracking_id}",
        },
    )


def _method_error(error: HubError) -> web.Response:
    # The methods path wraps its details as JSON inside the message.
    tracking_id, now = _tracking_id()
    details = {
        "errorCode": error.code,
        "trackingId": tracking_id,
        "message": error.message,
        "timestampUtc": f"{now:%Y-%m-%dT%H:%M:%SZ}",
    }
    return _error_response(error, {"Message": dumps(details), "ExceptionMessage": ""})


def _error_response(error: HubError, body: Json) -> web.Response:
    return web.Response(
        status=error.status,
        text=dumps(body),
        content_type="application/json",
        headers={"iothub-errorcode": error.name},
    )


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except HubError as error:
        return _error(error)
    except web.HTTPRequestEntityTooLarge:
        return _error(HubError(MESSAGE_TOO_LARGE, f"The body is over {MAX_BODY} bytes."))
    except web.HTTPException:
        raise
    except Exception:
        logger.exception("%s %s could not be answered", request.method, request.path)
        return _error(HubError(SERVER_ERROR, "The local hub failed; its log tells why."))
