"""Which limits of the tier a request to the service endpoint meets, and what it costs.

Twin updates and direct methods are charged where they are carried out (`TwinChanges`,
`DirectMethods`), because jobs and bulk calls cause them, too.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from fwupdate_helpers.localhub.throttle import Throttle
from fwupdate_helpers.localhub.tiers import METHOD_STEP_KB, Operation

_METHODS: Final = "/twins/{id}/methods"
_BULK: Final = ("POST", "/devices")
_QUERY: Final = "/devices/query"
_PREFIXES: Final = (
    (_METHODS, Operation.METHOD),
    (_QUERY, Operation.QUERY),
    ("/devices", Operation.REGISTRY),
    ("/statistics", Operation.REGISTRY),
    ("/jobs/v2", Operation.JOB),
    ("/configurations", Operation.CONFIGURATION),
)
_COSTS_MESSAGES: Final = frozenset(
    {Operation.METHOD, Operation.QUERY, Operation.TWIN_READ, Operation.TWIN_UPDATE}
)
_JOB_ROWS: Final = "deviceJob"
"""Queries of jobs cost no messages (iot-hub-devguide-jobs.md)."""


def operation_of(method: str, path: str) -> Operation | None:
    """Return what a route counts as; None for the hub's own routes and for images.

    Args:
        method: The HTTP method.
        path: The path of the route, such as ``/twins/{id}``.
    """
    for prefix, operation in _PREFIXES:
        if path.startswith(prefix):
            return operation
    if path.startswith("/twins/"):
        return Operation.TWIN_READ if method == "GET" else Operation.TWIN_UPDATE
    return None


async def admit(throttle: Throttle, request: web.Request) -> None:
    """Let a request pass.

    Raises:
        HubError: 429001, there were too many; 403002, the messages of the day are used up.
    """
    if throttle.tier is None or (operation := _operation(request)) is None:
        return
    if operation in _COSTS_MESSAGES:
        throttle.check_quota()
    throttle.admit(operation, await _amount(request, operation))


def charge(throttle: Throttle, request: web.Request, answer: web.StreamResponse) -> None:
    """Count what was read: twins, and the results of queries."""
    is_read = _operation(request) in (Operation.TWIN_READ, Operation.QUERY)
    if not is_read or answer.status != 200 or answer.headers.get("x-ms-item-type") == _JOB_ROWS:
        return
    body = answer.body if isinstance(answer, web.Response) else None
    throttle.charge(len(body) if isinstance(body, bytes) else 0)


def _operation(request: web.Request) -> Operation | None:
    return operation_of(request.method, _route(request))


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else ""


async def _amount(request: web.Request, operation: Operation) -> float:
    if operation is Operation.METHOD:
        payload = json.dumps(_field(await _body(request), "payload")).encode()
        return METHOD_STEP_KB * max(1, -(-len(payload) // (METHOD_STEP_KB * 1024)))
    if (request.method, _route(request)) == _BULK:
        items = await _body(request)
        return max(1, len(items)) if isinstance(items, list) else 1
    return 1


async def _body(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError:
        return None  # the route refuses it


def _field(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, dict) else None
