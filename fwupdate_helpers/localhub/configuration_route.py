"""The routes of automatic device configurations, as azure-iot-hub 2.7 calls them.

Source: the SDK's ``configuration`` operations (API version 2021-04-12).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from fwupdate_helpers.localhub import query
from fwupdate_helpers.localhub.configurations.specification import (
    Specification,
    check_id,
    metric_errors,
    read_specification,
    read_test,
    target_error,
)
from fwupdate_helpers.localhub.configurations.store import MAX_CONFIGURATIONS, ConfigurationStore
from fwupdate_helpers.localhub.error_responses import Handler
from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.etags import check_etag
from fwupdate_helpers.localhub.jsontext import dumps, loads_object

Json = dict[str, Any]


class ConfigurationRoute:
    """``/configurations``, one of them by its id, and ``/configurations/testQueries``.

    Args:
        changed: Called after each change.
    """

    def __init__(self, store: ConfigurationStore, *, changed: Callable[[], None]) -> None:
        self._store = store
        self._changed = changed

    def add_routes(self, router: web.UrlDispatcher, guarded: Callable[[Handler], Handler]) -> None:
        """Add the routes; `guarded` lets in who may connect as a service."""
        every, one = "/configurations", "/configurations/{id}"
        router.add_route("GET", every, guarded(self._list))
        router.add_route("POST", f"{every}/testQueries", guarded(self._test))
        router.add_route("GET", one, guarded(self._get))
        router.add_route("PUT", one, guarded(self._put))
        router.add_route("DELETE", one, guarded(self._delete))

    async def _list(self, request: web.Request) -> web.Response:
        return _json([one.to_json() for one in self._store.all()[: _top(request)]])

    async def _get(self, request: web.Request) -> web.Response:
        return _json(self._store.get(request.match_info["id"]).to_json())

    async def _put(self, request: web.Request) -> web.Response:
        configuration_id = check_id(request.match_info["id"])
        body = loads_object(await request.read())
        if body.get("id", configuration_id) != configuration_id:
            raise HubError(ARGUMENT_INVALID, "The id of the body is not that of the path.")
        if "If-Match" not in request.headers:
            done = self._store.create(configuration_id, _specification(body, None))
        else:
            before = self._store.get(configuration_id)
            check_etag(request.headers["If-Match"], before.etag)
            changed = _specification(body, before.specification)
            done = self._store.update(configuration_id, changed)
        self._changed()
        return _json(done.to_json())

    async def _delete(self, request: web.Request) -> web.Response:
        before = self._store.get(request.match_info["id"])
        check_etag(request.headers.get("If-Match", "*"), before.etag)
        self._store.delete(before.configuration_id)
        self._changed()
        return web.Response(status=204)

    async def _test(self, request: web.Request) -> web.Response:
        condition, queries = read_test(loads_object(await request.read()))
        return _json(
            {
                "targetConditionError": target_error(condition, query.check_condition),
                "customMetricQueryErrors": metric_errors(queries, _check_metric),
            }
        )


def _top(request: web.Request) -> int:
    top = request.query.get("top", str(MAX_CONFIGURATIONS))
    if not re.fullmatch(r"[0-9]{1,3}", top) or not 1 <= int(top) <= MAX_CONFIGURATIONS:
        raise HubError(ARGUMENT_INVALID, f"top must be within [1; {MAX_CONFIGURATIONS}].")
    return int(top)


def _specification(body: Json, before: Specification | None) -> Specification:
    return read_specification(
        body, before, check_condition=query.check_condition, check_query=_check_metric
    )


def _check_metric(text: str) -> None:
    if query.parse(text).collection != "devices":
        raise HubError(ARGUMENT_INVALID, "A metric counts devices: write SELECT … FROM devices.")


def _json(content: Any) -> web.Response:
    return web.Response(text=dumps(content), content_type="application/json")
