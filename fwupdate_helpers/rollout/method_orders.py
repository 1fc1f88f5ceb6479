"""Give the order by direct method: each device is called, offline ones again and again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.contract import Json
from fwupdate_helpers.errors import FirmwareUpdateError, HubUnauthorized
from fwupdate_helpers.retries import OnRetry, RetryPolicy
from fwupdate_helpers.rollout.calls import CallPool
from fwupdate_helpers.rollout.judging import Answer, Reply
from fwupdate_helpers.rollout.orders import answer_of_error, answer_of_payload
from fwupdate_helpers.rollout.terms import Terms
from fwupdate_helpers.service import invoke_firmware_update

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

_ANSWER_SECONDS: Final = 30
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 15.0


@dataclass(frozen=True)
class _Wait:
    """When a device is called again.

    Attributes:
        due: By the monotonic clock.
        seconds: How long that wait is.
        code: Why the device was not reached.
    """

    due: float
    seconds: float
    code: str | None


class MethodOrders:
    """Orders of one wave by direct method.

    Args:
        pool: Makes the calls.
        terms: What the rollout is to do.
        policy: How often and how long each call is tried.
        on_retry: Called with a `Retry` before each further try.
    """

    def __init__(
        self, pool: CallPool, terms: Terms, *, policy: RetryPolicy, on_retry: OnRetry | None = None
    ) -> None:
        self._pool, self._terms = pool, terms
        self._policy = policy.within(terms.limits.reach_seconds)
        self._on_retry = on_retry
        self._calls: dict[str, Future[Answer]] = {}
        self._waits: dict[str, _Wait] = {}
        self._left: dict[str, Answer] = {}
        self._is_open = True

    def begin(self, wave: int, device_ids: Iterable[str]) -> None:
        """Call all devices of the wave that are not done with."""
        for device_id in device_ids:
            self._call(device_id)

    def seen(self, device_id: str, reported: Json) -> None:
        """Nothing to do: the answers tell all."""

    def answers(self) -> dict[str, Answer]:
        """Return what has become of orders since the last look; call devices again when due."""
        found, self._left = self._left, {}
        for device_id, call in list(self._calls.items()):
            if call.done():
                found[device_id] = self._finish(device_id, self._calls.pop(device_id))
            else:
                found[device_id] = Answer(Reply.SENT)
        now = time.monotonic()
        for device_id, wait in self._waits.items():
            if wait.due <= now and device_id not in self._calls:
                self._call(device_id)
        return found

    def stop_trying(self) -> None:
        """Call no device again; each was called once, or is about to be."""
        self._is_open = False
        for device_id, wait in self._waits.items():
            if device_id not in self._calls or self._calls[device_id].cancel():
                self._calls.pop(device_id, None)
                self._left[device_id] = Answer(Reply.WITHDRAWN, wait.code)
        self._waits.clear()

    def withdraw(self) -> None:
        """Call no further device; calls that are on their way cannot be called back."""
        self.stop_trying()
        for device_id in [each for each, call in self._calls.items() if call.cancel()]:
            self._left[device_id] = Answer(Reply.WITHDRAWN)
            del self._calls[device_id]

    def end(self) -> None:
        """End the orders of this wave."""
        self.withdraw()
        self._calls.clear()
        self._left.clear()
        self._is_open = True

    def give_up(self, wave: int) -> None:
        """Nothing to do: a wave that is over has no orders."""

    def _call(self, device_id: str) -> None:
        self._calls[device_id] = self._pool.submit(partial(self._give, device_id=device_id))

    def _finish(self, device_id: str, call: Future[Answer]) -> Answer:
        answer = call.result()
        before = self._waits.pop(device_id, None)
        if answer.reply is not Reply.UNREACHED:
            return answer
        if not self._is_open:
            return Answer(Reply.WITHDRAWN, answer.code)
        seconds = min(2 * before.seconds, _LONGEST_WAIT) if before else _FIRST_WAIT
        self._waits[device_id] = _Wait(time.monotonic() + seconds, seconds, answer.code)
        return answer

    def _give(self, registry: IoTHubRegistryManager, device_id: str) -> Answer:
        image = self._terms.image
        try:
            update = invoke_firmware_update(
                registry,
                device_id,
                package_uri=image.uri,
                update_id=self._terms.update_id,
                version=image.version,
                check_value=image.check_value,
                allow_downgrade=image.allow_downgrade,
                response_timeout=_ANSWER_SECONDS,
                policy=self._policy,
                on_retry=self._on_retry,
            )
        except HubUnauthorized:
            raise  # no device will be reached with these credentials
        except FirmwareUpdateError as error:
            return answer_of_error(error)
        return answer_of_payload(update.payload)
