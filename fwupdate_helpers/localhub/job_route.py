"""The routes of scheduled jobs.

Source: azure-iot-hub 2.7's ``jobs_operations.py`` and Microsoft's service.json (2021-04-12); the
permissions: "Control access to IoT Hub" asks for ServiceConnect, "Schedule and broadcast jobs"
(schedule-jobs-python.md) for those of the registry, so either will do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from aiohttp import web

from fwupdate_helpers.localhub.authentication import (
    REGISTRY_READ,
    REGISTRY_WRITE,
    SERVICE_CONNECT,
)
from fwupdate_helpers.localhub.error_responses import Handler
from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.jobs.records import JOB_STATUSES, Job
from fwupdate_helpers.localhub.jobs.scheduler import JobScheduler
from fwupdate_helpers.localhub.jobs.specification import CONTENT
from fwupdate_helpers.localhub.jsontext import dumps, loads_object
from fwupdate_helpers.localhub.query import continuation
from fwupdate_helpers.localhub.query.continuation import Position
from fwupdate_helpers.localhub.query_route import read_page_size

Json = dict[str, Any]

_CONTINUATION: Final = "x-ms-continuation"
_READ: Final = frozenset({SERVICE_CONNECT, REGISTRY_READ})
_WRITE: Final = frozenset({SERVICE_CONNECT, REGISTRY_WRITE})


class JobRoute:
    """``/jobs/v2/{id}``, its ``/cancel``, and ``/jobs/v2/query``."""

    def __init__(self, scheduler: JobScheduler) -> None:
        self._scheduler = scheduler
        self._jobs = scheduler.jobs

    def add_routes(
        self, router: web.UrlDispatcher, guarded: Callable[[frozenset[str], Handler], Handler]
    ) -> None:
        """Add the routes; `guarded` lets those in who have one of some permissions."""
        # Before /jobs/v2/{id}: no job can be read that is called "query".
        router.add_route("GET", "/jobs/v2/query", guarded(_READ, self._query))
        router.add_route("GET", "/jobs/v2/{id}", guarded(_READ, self._get))
        router.add_route("PUT", "/jobs/v2/{id}", guarded(_WRITE, self._create))
        router.add_route("POST", "/jobs/v2/{id}/cancel", guarded(_WRITE, self._cancel))

    async def _create(self, request: web.Request) -> web.Response:
        body = loads_object(await request.read())
        return self._answer(self._scheduler.create(request.match_info["id"], body))

    async def _get(self, request: web.Request) -> web.Response:
        return self._answer(self._jobs.get(request.match_info["id"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        return self._answer(self._scheduler.cancel(request.match_info["id"]))

    async def _query(self, request: web.Request) -> web.Response:
        job_type = _one_of(request, "jobType", CONTENT)
        status = _one_of(request, "jobStatus", JOB_STATUSES)
        question = f"jobs {job_type} {status}"
        before = continuation.read(request.headers.get(_CONTINUATION), question)
        jobs, last = self._jobs.page(
            job_type=job_type,
            status=status,
            size=read_page_size(request.headers),
            after=before.after,
        )
        content: Json = {"type": "jobResponse", "items": [self._json(job) for job in jobs]}
        headers = {"x-ms-item-type": "jobResponse"}
        if last:
            token = continuation.write(Position(before.given + len(jobs), last), question)
            # The SDK reads it in the body, the REST API's other clients in the header.
            content["continuationToken"] = headers[_CONTINUATION] = token
        return web.Response(text=dumps(content), content_type="application/json", headers=headers)

    def _answer(self, job: Job) -> web.Response:
        return web.Response(text=dumps(self._json(job)), content_type="application/json")

    def _json(self, job: Job) -> Json:
        return job.to_json(self._jobs.counts(job.job_id))


def _one_of(request: web.Request, name: str, known: Collection[str]) -> str | None:
    given = request.query.get(name) or None
    if given is not None and given not in known:
        raise HubError(ARGUMENT_INVALID, f"{name} must be one of {', '.join(sorted(known))}.")
    return given
