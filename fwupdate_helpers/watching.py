"""Watch an update in the device twin, and wait for its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from fwupdate_helpers import contract
from fwupdate_helpers.contract_firmware import CURRENT, desired_outcome
from fwupdate_helpers.errors import UpdateFailed, UpdateTimeout
from fwupdate_helpers.hub_pace import pace_of
from fwupdate_helpers.hub_requests import retried
from fwupdate_helpers.reported import reported_error, update_outcome
from fwupdate_helpers.retries import OnRetry, Operation, RetryPolicy

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager
    from azure.iot.hub.models import Twin

CODE_SUPERSEDED: Final = "superseded"
"""Error code of an update whose place in the twin another update has taken."""


def read_twin(
    registry: IoTHubRegistryManager,
    device_id: str,
    *,
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> Twin:
    """Read a device twin, again after an error that may pass.

    Args:
        registry: The service client.
        device_id: The device.
        policy: How often and how long to try; None is the default policy.
        on_retry: Called with a `Retry` before each further try.

    Raises:
        FirmwareUpdateError: The hub was not reached or refused the request; see `hub_errors`.
    """
    return retried(
        lambda: registry.get_twin(device_id),
        operation=Operation.TWIN,
        device_id=device_id,
        policy=policy,
        on_retry=on_retry,
    )


def watch_update(
    registry: IoTHubRegistryManager,
    device_id: str,
    *,
    update_id: str | None = None,
    interval: float | None = None,
    timeout: float | None = None,
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Twin]:
    """Yield the device twin at once, and again whenever its reported properties have changed.

    Ends with the twin that tells of the end: completed, an error, or rolled back. With an
    `update_id` no other update's end counts; without one, the first final `firmwareStatus` does.

    The device of Azure's tutorial reports no update id, and tells of its last update until the
    next download begins: with an `update_id`, an end that the first look shows does not count.

    Args:
        registry: The service client.
        device_id: The device to watch.
        update_id: The id of the update, from `invoke_firmware_update`, or the `desired_update_id`
            of a desired firmware; a device that runs it already reports that without an update.
        interval: Seconds between two reads of the twin; None is 0.5 on the local hub, and 2 on one
            that counts each read as messages of the day (Azure, a local hub with a tier).
        timeout: Seconds after which to give up; None waits for ever.
        policy: How often and how long each read of the twin is tried; None is the default
            policy, ``RetryPolicy.none()`` ends the watch with the first error.
        on_retry: Called with a `Retry` before each further try of a read.
        clock: Tells the seconds, for tests.
        sleep: Waits for seconds, for tests.

    Raises:
        UpdateTimeout: The update did not end in time.
        UpdateFailed: Another update has begun; the code is ``superseded``.
        FirmwareUpdateError: The hub was not reached or refused the request; see `hub_errors`.
    """
    deadline = None if timeout is None else clock() + timeout
    watch = _Watch(device_id, update_id)
    reported: contract.Json | None = None
    policy = policy or RetryPolicy()
    pause = pace_of(registry).twin if interval is None else interval
    while True:
        left = math.inf if deadline is None else deadline - clock()
        twin = read_twin(registry, device_id, policy=policy.within(left), on_retry=on_retry)
        before, reported = reported, reported_of(twin)
        ended = watch.ended(reported)
        if reported != before:
            yield twin
        if ended:
            return
        left = math.inf if deadline is None else deadline - clock()
        if left <= 0:
            raise _late(device_id, reported)
        sleep(min(pause, left))


def wait_for_update(
    registry: IoTHubRegistryManager,
    device_id: str,
    update_id: str | None = None,
    *,
    interval: float | None = None,
    timeout: float | None = 300,
    on_change: Callable[[Twin], object] | None = None,
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> Twin:
    """Wait until an update has completed, and return the device twin of that moment.

    Args:
        registry: The service client.
        device_id: The device to watch.
        update_id: The id of the update; see `watch_update` for what None means.
        interval: As in `watch_update`.
        timeout: Seconds after which to give up; None waits for ever.
        on_change: Called with the twin at once and after every change.
        policy: As in `watch_update`.
        on_retry: As in `watch_update`.

    Raises:
        UpdateFailed: The update ended in an error, was rolled back, or another one has begun.
        UpdateTimeout: The update did not end in time.
        FirmwareUpdateError: The hub was not reached or refused the request; see `hub_errors`.
    """
    twin: Twin = None
    for twin in watch_update(
        registry,
        device_id,
        update_id=update_id,
        interval=interval,
        timeout=timeout,
        policy=policy,
        on_retry=on_retry,
    ):
        if on_change:
            on_change(twin)
    reported = reported_of(twin)
    failure = update_failure(device_id, reported)
    if failure and not _runs(reported, update_id):
        raise failure
    return twin


def update_failure(device_id: str, reported: contract.Json) -> UpdateFailed | None:
    """Return the error that tells how the update failed; None when it completed or still runs.

    Args:
        device_id: The device.
        reported: The reported properties of its twin.
    """
    outcome, error = update_outcome(reported), reported_error(reported)
    if outcome in (None, contract.COMPLETED):
        return None
    code = error.code if error else str(outcome)
    happened = "was rolled back" if outcome == contract.ROLLED_BACK else "failed"
    why = f" {error.message}" if error and error.message else ""
    return UpdateFailed(
        device_id,
        f"The update of {device_id} {happened}: {code}.{why} Remove the cause, then update again.",
        code=code,
    )


def _late(device_id: str, reported: contract.Json) -> UpdateTimeout:
    status = reported.get(contract.STATUS, "no status")
    return UpdateTimeout(
        device_id,
        f"The update of {device_id} did not end in the time that was given; the device last "
        f"reported {status}. Check that the device runs, or wait longer.",
    )


def _superseded(device_id: str, update_id: str) -> UpdateFailed:
    return UpdateFailed(
        device_id,
        f"Another update has begun on {device_id}, so the twin no longer tells of {update_id}. "
        "Watch the newer update, or invoke yours again after it.",
        code=CODE_SUPERSEDED,
    )


def reported_of(twin: Twin) -> contract.Json:
    """Return the reported properties of a twin; empty where there are none."""
    return dict((twin.properties and twin.properties.reported) or {})


class _Watch:
    """Decides, from one look at the reported properties to the next, whether an update ended."""

    def __init__(self, device_id: str, update_id: str | None) -> None:
        self.device_id, self.update_id = device_id, update_id
        self.first: contract.Json | None = None
        self.seen = False

    def ended(self, reported: contract.Json) -> bool:
        if self.first is None:
            self.first = reported
        if _runs(reported, self.update_id):
            return True
        update = reported.get(contract.UPDATE)
        current = update.get(contract.UPDATE_ID) if isinstance(update, Mapping) else None
        if self.update_id is None:
            return self._any_ended(reported, self.first)
        if current is None:
            return _final(reported) and _moved(reported, self.first)
        if current == self.update_id:
            self.seen = True
            return update_outcome(reported) is not None
        if self.seen or update != self.first.get(contract.UPDATE):
            raise _superseded(self.device_id, self.update_id)
        # Left by another device with this id: this one reports no update id.
        return _final(reported) and _moved(reported, self.first)

    @staticmethod
    def _any_ended(reported: contract.Json, first: contract.Json) -> bool:
        ended_meanwhile = update_outcome(first) is None and update_outcome(reported) is not None
        return _final(reported) or ended_meanwhile


def _runs(reported: contract.Json, update_id: str | None) -> bool:
    """Tell whether it is the id of a desired firmware that runs, perhaps without an update."""
    return update_id is not None and desired_outcome(reported, update_id) == CURRENT


def _final(reported: contract.Json) -> bool:
    return reported.get(contract.STATUS) in contract.FINAL_STATUSES


def _moved(reported: contract.Json, first: contract.Json) -> bool:
    keys = (contract.STATUS, contract.DOWNLOAD_COMPLETE, contract.LAST_UPDATE)
    return any(reported.get(key) != first.get(key) for key in keys)


__all__ = [
    "CODE_SUPERSEDED",
    "read_twin",
    "reported_of",
    "update_failure",
    "wait_for_update",
    "watch_update",
]
