"""The routes of published images: services publish them, devices download them.

A download needs no token in a header: the address itself is the secret, as with a shared access
signature. It may be resumed: parts and preconditions are those of RFC 9110, sections 13 and 14.
aiohttp's own FileResponse is not enough for that: it makes the ETag from the moment of the last
change and understands only dates in ``If-Range``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO, Final

from aiohttp import ETag, web

from fwupdate_helpers.localhub.error_responses import Handler
from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, PRECONDITION_FAILED, HubError
from fwupdate_helpers.localhub.fault_wire import FaultyDownload, WireFaults
from fwupdate_helpers.localhub.images import Image, ImageStore
from fwupdate_helpers.localhub.jsontext import dumps

SENT: Final = "bytes of the image that were sent"
"""Under which name a request holds them, for the wire trace."""
_PIECE: Final = 256 * 1024
_ONE_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


class ImageEndpoint:
    """Publishes, replaces, deletes and serves images.

    Args:
        faults: What is to go wrong with downloads.
        used: Called on every piece of an image that comes or goes.
    """

    def __init__(self, images: ImageStore, *, faults: WireFaults, used: Callable[[], None]) -> None:
        self._images = images
        self._faults = faults
        self._used = used

    def add_routes(self, router: web.UrlDispatcher, guarded: Callable[[Handler], Handler]) -> None:
        """Add all routes.

        Args:
            guarded: Wraps a handler that only services may call.
        """
        one = "/$localhub/images/{token}/{name}"
        router.add_route("POST", "/$localhub/images/{name}", guarded(self._publish))
        router.add_route("PUT", one, guarded(self._replace))
        router.add_route("DELETE", one, guarded(self._delete))
        router.add_get("/firmware/{token}/{name}", self._send)
        router.add_get("/firmware{anything:(/.*)?}", self._send)

    async def _publish(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return _published(await self._images.publish(name, self._body(request)))

    async def _replace(self, request: web.Request) -> web.Response:
        token, name = _address(request)
        return _published(await self._images.replace(token, name, self._body(request)))

    async def _delete(self, request: web.Request) -> web.Response:
        await self._images.delete(*_address(request))
        return web.Response(status=204)

    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        self._images.check_room(request.content_length or 0)
        try:
            async for piece in request.content.iter_any():
                self._used()
                yield piece
        except (ConnectionError, web.RequestPayloadError) as error:
            raise HubError(ARGUMENT_INVALID, "The upload was cut off.") from error

    async def _send(self, request: web.Request) -> web.StreamResponse:
        with self._images.reading(*_address(request)) as (image, stream):
            self._used()
            _check_if_match(request, image)
            headers = {"ETag": f'"{image.etag}"', "Accept-Ranges": "bytes"}
            if _matches(request.if_none_match, image.etag, weak=True):
                return web.Response(status=304, headers=headers)
            part = wanted_part(request, image)
            if part is not None and not part:
                headers["Content-Range"] = f"bytes */{image.size}"
                return web.Response(status=416, headers=headers)
            if part is not None:
                headers["Content-Range"] = f"bytes {part[0]}-{part[-1]}/{image.size}"
            response = web.StreamResponse(status=206 if part else 200, headers=headers)
            part = part or range(image.size)
            faults = FaultyDownload(self._faults, image.path, size=image.size, start=part.start)
            await self._send_part(request, response, stream, part, faults)
            return response

    async def _send_part(
        self,
        request: web.Request,
        response: web.StreamResponse,
        stream: BinaryIO,
        part: range,
        faults: FaultyDownload,
    ) -> None:
        response.content_type = "application/octet-stream"
        response.content_length = left = len(part)
        stream.seek(part.start)
        try:
            await response.prepare(request)
            while left and request.method != "HEAD":
                size = await faults.allowed(min(_PIECE, left))
                if not size:
                    await faults.hang_up(request.transport)
                    return
                piece = await asyncio.to_thread(stream.read, size)
                if not piece:  # somebody else has shortened the file
                    response.force_close()
                    break
                await response.write(faults.passed(piece))
                left -= len(piece)
                self._used()
            await response.write_eof()
        except ConnectionError:
            return  # the device has hung up, and may come back for the rest
        finally:
            request[SENT] = len(part) - left


def wanted_part(request: web.Request, image: Image) -> range | None:
    """Return which bytes a request asks for.

    Returns:
        None for the whole image, an empty range for what lies beyond its end. Several ranges
        at once, other units and malformed headers are answered with the whole, as is allowed.
    """
    match = _ONE_RANGE.fullmatch(request.headers.get("Range", "").strip())
    condition = request.headers.get("If-Range", "").strip()
    if not match or request.method != "GET" or condition not in ("", f'"{image.etag}"'):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, image.size - int(last)), image.size) if last else None
    start, stop = int(first), int(last) + 1 if last else image.size
    if last and stop <= start:
        return None
    return range(min(start, image.size), min(stop, image.size))


def _check_if_match(request: web.Request, image: Image) -> None:
    wanted = request.if_match
    if wanted is not None and not _matches(wanted, image.etag, weak=False):
        raise HubError(
            PRECONDITION_FAILED, "Precondition failed: the ETag is not that of the current image."
        )


def _matches(wanted: tuple[ETag, ...] | None, etag: str, *, weak: bool) -> bool:
    return any(
        one.value == "*" or (one.value == etag and (weak or not one.is_weak))
        for one in wanted or ()
    )


def _address(request: web.Request) -> tuple[str, str]:
    return request.match_info.get("token", ""), request.match_info.get("name", "")


def _published(image: Image) -> web.Response:
    content = {"path": image.path, "size": image.size, "etag": f'"{image.etag}"'}
    return web.Response(text=dumps(content), content_type="application/json")
