"""Give the order by direct method: each device is called, offline ones again and again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
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
        self._again: dict[str, tuple[float, float]] = {}
        """When to call a device again, and how long to wait after that."""
        self._is_open = True

    def begin(self, wave: int, device_ids: Iterable[str]) -> None:
        """Call all devices of the wave that are not done with."""
        for device_id in device_ids:
            self._call(device_id)

    def seen(self, device_id: str, reported: Json) -> None:
        """Nothing to do: the answers tell all."""

    def answers(self) -> dict[str, Answer]:
        """Return what has become of orders since the last look; call devices again when due."""
        done = [device_id for device_id, call in self._calls.items() if call.done()]
        found = {device_id: self._answer(device_id) for device_id in done}
        for device_id, call in self._calls.items():
            if call.running():
                found[device_id] = Answer(Reply.SENT)
        self._call_again()
        return found

    def withdraw(self) -> None:
        """Give no further orders; those that are on their way cannot be called back."""
        self._is_open = False
        self._again.clear()
        for call in self._calls.values():
            call.cancel()

    def end(self) -> None:
        """End the orders of this wave."""
        self.withdraw()
        self._calls.clear()
        self._is_open = True

    def give_up(self, wave: int) -> None:
        """Give no further orders at all."""
        self.withdraw()

    def _call(self, device_id: str) -> None:
        self._calls[device_id] = self._pool.submit(lambda registry: self._give(registry, device_id))

    def _call_again(self) -> None:
        now = time.monotonic()
        for device_id in [each for each, (due, _) in self._again.items() if due <= now]:
            self._call(device_id)
            _, wait = self._again[device_id]
            self._again[device_id] = (float("inf"), min(2 * wait, _LONGEST_WAIT))

    def _answer(self, device_id: str) -> Answer:
        try:
            answer = self._calls.pop(device_id).result()
        except CancelledError:
            return Answer(Reply.UNREACHED)
        if answer.reply is Reply.UNREACHED and self._is_open:
            _, wait = self._again.get(device_id, (0.0, _FIRST_WAIT))
            self._again[device_id] = (time.monotonic() + wait, wait)
        else:
            self._again.pop(device_id, None)
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
