"""The device's answers to direct methods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.firmware.agent import UpdateAgent
from fwupdate_helpers.firmware.orders import Answer, refusal
from fwupdate_helpers.firmware.stages import reason
from fwupdate_helpers.firmware.uris import check_uri

if TYPE_CHECKING:
    from azure.iot.device import MethodRequest, MethodResponse

NOT_REPORTED: Final = "notReported"


class MethodDesk:
    """Answers direct methods, each in a task of its own.

    Args:
        agent: Walks the updates.
        events: Where to note what happens.
        send: Sends an answer to the hub.
        run_update: Called when an update has begun; it walks it.
        allow_http: Whether plain HTTP will do for an image.

    Attributes:
        introduced: Set when the device knows what its last run left unfinished; a method that
            comes before waits for it.
        tasks: The answers that are on their way.
    """

    def __init__(
        self,
        agent: UpdateAgent,
        events: EventLog,
        *,
        send: Callable[[MethodResponse], Awaitable[None]],
        run_update: Callable[[], None],
        allow_http: bool,
    ) -> None:
        self.introduced = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self._agent = agent
        self._events = events
        self._send = send
        self._run_update = run_update
        self._allow_http = allow_http

    def take(self, request: MethodRequest) -> None:
        """Answer a direct method, later."""
        task = asyncio.ensure_future(self._answer(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda task: note_failure(task, self._events))

    def close(self) -> None:
        """Leave unanswered what is not answered yet."""
        for task in self.tasks:
            task.cancel()

    async def _answer(self, request: MethodRequest) -> None:
        from azure.iot.device import MethodResponse

        try:
            status, payload = await self._handle(request)
        except Exception as error:  # the service is told, and the device lives on
            problem = f"The device failed to handle {request.name!r}: {reason(error)}."
            self._events.add("error", problem)
            status, payload = 500, refusal(contract.CODE_INTERNAL, problem)
        await self._send(MethodResponse.create_from_method_request(request, status, payload))

    async def _handle(self, request: MethodRequest) -> Answer:
        await self.introduced.wait()
        if request.name == contract.CANCEL_METHOD:
            return self._cancel(request.payload)
        if request.name != contract.METHOD:
            return 404, refusal("notFound", f"This device has no method {request.name!r}.")
        try:
            order = contract.UpdateOrder.from_payload(request.payload)
            if not order.is_simulated:
                check_uri(order.package_uri, allow_http=self._allow_http)
        except DownloadError as error:
            return 400, refusal(error.code, str(error))
        except ValueError as error:
            return 400, refusal("badRequest", str(error))
        await self._agent.settled()
        return self._agent.answer_at_once(order) or await self._begin(order)

    def _cancel(self, payload: Any) -> Answer:
        update_id = payload.get(contract.UPDATE_ID) if isinstance(payload, dict) else None
        status, answer = self._agent.cancel(update_id)
        if status == 200:
            self._events.add("cancelled", "The service cancels the update.")
        return status, answer

    async def _begin(self, order: contract.UpdateOrder) -> Answer:
        self._events.add("starting", "Starting firmware update.")
        try:
            # Acknowledged before the method is answered: whoever reads the twin after the answer
            # must not take the end of the last update for the end of this one.
            await self._agent.begin(order)
        except Exception as error:
            return 500, refusal(NOT_REPORTED, f"The hub did not take the report: {error}")
        self._run_update()
        return 200, dict(contract.RESPONSE_STARTED)


def note_failure(task: asyncio.Task[None], events: EventLog) -> None:
    """Note the error that a task ended in, if any."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        events.add("error", f"{type(error).__name__}: {error}")
