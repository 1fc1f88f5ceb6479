"""What the wire trace says of HTTPS requests and their answers."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from fwupdate_helpers.localhub.error_responses import Handler
from fwupdate_helpers.localhub.image_endpoint import SENT
from fwupdate_helpers.localhub.websocket_endpoint import WEBSOCKET_ROUTE
from fwupdate_helpers.localhub.wiretrace import DEVICE, HUB, SERVICE, Message, WireTrace

OWN_ROUTES: Final = "/$localhub/"
_UNTOLD: Final = (OWN_ROUTES, WEBSOCKET_ROUTE)
"""The hub's own routes; and a device's way in, of which the MQTT packets tell."""
_IMAGES: Final = "/firmware/"


class HttpTrace:
    """Adds requests and answers to the wire trace."""

    def __init__(self, trace: WireTrace) -> None:
        self._trace = trace

    async def authenticated(self, request: web.Request) -> None:
        """Note a request that a service may make, before it is carried out."""
        if self._tells(request):
            request["trace"] = self._add_request(request, await request.read())

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note the answer, and the request of somebody who may not make it, without its body."""
        if not self._tells(request):
            return await handler(request)
        if request.path.startswith(_IMAGES):
            request["trace"] = self._add_request(request, b"")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            self._answered(request, error)
            raise
        self._answered(request, response)
        return response

    def _answered(self, request: web.Request, response: web.StreamResponse) -> None:
        if "trace" not in request:
            request["trace"] = self._add_request(request, b"")
        self._add_answer(request, response)

    def _tells(self, request: web.Request) -> bool:
        return self._trace.on and not request.path.startswith(_UNTOLD)

    def _add_request(self, request: web.Request, body: bytes) -> int | None:
        kind, client = _kind(request)
        message = Message(
            self._device_id(request), kind, client, HUB, request.method, request.path_qs, body=body
        )
        return self._trace.add(message)

    def _add_answer(self, request: web.Request, response: web.StreamResponse) -> None:
        kind, client = _kind(request)
        body = response.body if isinstance(response, web.Response) else None
        self._trace.add(
            Message(
                self._device_id(request),
                kind,
                HUB,
                client,
                response.headers.get("iothub-errorcode") or response.reason or "",
                status=response.status,
                body=body if isinstance(body, bytes) else b"",
                size=request.get(SENT, response.content_length),
                answers=request["trace"],
                reason=response.headers.get("Content-Range", ""),
            )
        )

    def _device_id(self, request: web.Request) -> str:
        start = request.path.split("/")[1:2]
        if start == ["firmware"]:
            return self._trace.reader_of(request.match_info.get("token", ""))
        return request.match_info.get("id", "") if start in (["twins"], ["devices"]) else ""


def _kind(request: web.Request) -> tuple[str, str]:
    """Return what a request is about, and who makes it."""
    path = request.path
    if path.startswith(_IMAGES):
        return "image", DEVICE
    if path.startswith("/twins/"):
        return ("methods" if path.endswith("/methods") else "twin"), SERVICE
    if (request.method, path) == ("POST", "/devices/query"):
        return "query", SERVICE
    return ("identity" if path.startswith("/devices") else "other"), SERVICE
