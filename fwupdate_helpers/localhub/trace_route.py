"""The route that hands out the wire trace; an IoT Hub on Azure has none."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from aiohttp import web

from fwupdate_helpers.localhub.error_responses import Handler
from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.jsontext import dumps
from fwupdate_helpers.localhub.wiretrace import WireTrace

_NUMBER: Final = re.compile(r"[0-9]{1,15}")


class TraceRoute:
    """``GET`` and ``DELETE /$localhub/trace``."""

    def __init__(self, trace: WireTrace) -> None:
        self._trace = trace

    def add_routes(self, router: web.UrlDispatcher, guarded: Callable[[Handler], Handler]) -> None:
        """Add the routes; `guarded` wraps a handler that only services may call."""
        router.add_route("GET", "/$localhub/trace", guarded(self._get))
        router.add_route("DELETE", "/$localhub/trace", guarded(self._delete))

    async def _get(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not _NUMBER.fullmatch(after):
            raise HubError(ARGUMENT_INVALID, "'after' must be the number of a message.")
        rows = self._trace.rows(after=int(after), device_id=request.query.get("deviceId"))
        content = {
            "on": self._trace.on,
            "oldest": self._trace.oldest,
            "last": self._trace.last,
            "rows": rows,
        }
        return web.Response(text=dumps(content), content_type="application/json")

    async def _delete(self, request: web.Request) -> web.Response:
        self._trace.clear()
        return web.Response(status=204)
