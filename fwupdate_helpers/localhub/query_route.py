"""The route that answers queries on device twins and on what jobs did.

Source: the operation ``get_twins`` of azure-iot-hub 2.7 and Microsoft's service.json (2021-04-12).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from fwupdate_helpers.localhub import query
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.error_responses import Handler
from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.jsontext import dumps, loads_object

_PAGE_SIZE: Final = "x-ms-max-item-count"
_CONTINUATION: Final = "x-ms-continuation"
_ITEM_TYPE: Final = "x-ms-item-type"


class QueryRoute:
    """``POST /devices/query``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_routes(self, router: web.UrlDispatcher, guarded: Callable[[Handler], Handler]) -> None:
        """Add the route; `guarded` wraps a handler that only services may call."""
        router.add_route("POST", "/devices/query", guarded(self._query))

    async def _query(self, request: web.Request) -> web.Response:
        text = loads_object(await request.read()).get("query")
        if not isinstance(text, str):
            raise HubError(ARGUMENT_INVALID, 'The body must be {"query": "SELECT …"}.')
        page = query.run(
            self._database,
            text,
            page_size=read_page_size(request.headers),
            continuation=request.headers.get(_CONTINUATION),
        )
        headers = {_ITEM_TYPE: page.item_type}
        if page.continuation is not None:
            headers[_CONTINUATION] = page.continuation
        return web.Response(
            text=dumps(page.items), content_type="application/json", headers=headers
        )


def read_page_size(headers: Mapping[str, str]) -> int:
    """Return how many items a client wants on a page at most; raise `HubError` 400004."""
    header = headers.get(_PAGE_SIZE)
    if header is None:
        return query.DEFAULT_PAGE
    if not re.fullmatch(r"[0-9]{1,9}", header.strip()) or int(header) == 0:
        raise HubError(
            ARGUMENT_INVALID, f"{_PAGE_SIZE} must be a whole number from 1 to {query.MAX_PAGE}."
        )
    # "The service may use a different value": a page may have fewer items than asked for.
    return min(int(header), query.MAX_PAGE)
