"""The service side of an update: invoke it, watch the device twin, wait for the end.

Everything here works on a real ``IoTHubRegistryManager`` and raises this kit's errors instead of
the SDK's, which keep IoT Hub's error code hidden in the body of the response.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from azure.iot.hub.models import CloudToDeviceMethod

from fwupdate_helpers import contract
from fwupdate_helpers.errors import (
    UpdateFailed,
    UpdateRejected,
    UpdateTimeout,
)
from fwupdate_helpers.reported import reported_error, update_outcome
from fwupdate_helpers.sdk_errors import hub_errors

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager
    from azure.iot.hub.models import Twin

CODE_SUPERSEDED: Final = "superseded"
"""Error code of an update whose place in the twin another update has taken."""


@dataclass(frozen=True)
class InvokedUpdate:
    """A firmware update that the device has accepted.

    Attributes:
        device_id: The device.
        update_id: The id to watch for in the twin's `firmwareUpdate.updateId`.
        status: The status of the device's answer.
        payload: The payload of the device's answer.
    """

    device_id: str
    update_id: str
    status: int
    payload: Any

    @property
    def is_up_to_date(self) -> bool:
        """Whether the version runs already: nothing was started, and no end will come."""
        return bool(self.payload == contract.RESPONSE_UP_TO_DATE)


def invoke_firmware_update(
    registry: IoTHubRegistryManager,
    device_id: str,
    *,
    package_uri: str = "test.com",
    update_id: str | None = None,
    version: str | None = None,
    check_value: str | None = None,
    allow_downgrade: bool = False,
    response_timeout: int = 60,
    connect_timeout: int = 0,
) -> InvokedUpdate:
    """Invoke the direct method `firmwareUpdate` on a device.

    Args:
        registry: The service client, for example ``connect_hub().registry``.
        device_id: The device to update.
        package_uri: Where the device gets the image; without a scheme, a simulated transfer.
        update_id: The id of this update; a new one is made when it is None.
        version: The version that the image brings, where it is known. A device that runs it
            already starts nothing; see `InvokedUpdate.is_up_to_date`.
        check_value: SHA-256 of the image's file, hexadecimal, where it is known.
        allow_downgrade: Whether an older version, or the one that runs, may be installed.
        response_timeout: Seconds to wait for the answer, 5 to 300.
        connect_timeout: Seconds to wait for an offline device, up to 300. The SDK itself gives up
            when both together exceed 100 seconds.

    Raises:
        DeviceNotFound: The hub has no such device, or it is disabled.
        DeviceOffline: The device is not connected or listens to no direct method.
        UpdateRejected: The device answered with another status than 200.
        UpdateTimeout: The device did not answer in time; it may still have begun.
        FirmwareUpdateError: The hub was not reached or refused the request; see `hub_errors`.

    Example:
        >>> update = invoke_firmware_update(hub.registry, "device-01")  # doctest: +SKIP
        >>> wait_for_update(hub.registry, "device-01", update.update_id)  # doctest: +SKIP
    """
    update_id = update_id or uuid.uuid4().hex
    payload: contract.Json = {contract.PACKAGE_URI: package_uri, contract.UPDATE_ID: update_id}
    if version is not None:
        payload[contract.VERSION] = version
    if check_value is not None:
        payload[contract.CHECK_VALUE] = check_value
    if allow_downgrade:
        payload[contract.ALLOW_DOWNGRADE] = True
    waits = (response_timeout, connect_timeout)
    answer = _invoke(registry, device_id, contract.METHOD, payload, waits)
    return InvokedUpdate(device_id, update_id, answer.status, answer.payload)


def cancel_firmware_update(
    registry: IoTHubRegistryManager,
    device_id: str,
    update_id: str | None = None,
    *,
    response_timeout: int = 60,
) -> Any:
    """Invoke the direct method `cancelFirmwareUpdate` on a device; return the answer's payload.

    The update then ends with the error code ``cancelled``, which the twin tells.

    Args:
        registry: The service client.
        device_id: The device.
        update_id: The update that is meant; None means whichever runs.
        response_timeout: Seconds to wait for the answer, 5 to 300.

    Raises:
        UpdateRejected: No such update runs (code ``noUpdate`` or ``otherUpdate`` in the payload),
            or the device is switching to the new image and cannot stop (``tooLate``).
        FirmwareUpdateError: As `invoke_firmware_update`.
    """
    payload = {} if update_id is None else {contract.UPDATE_ID: update_id}
    waits = (response_timeout, 0)
    return _invoke(registry, device_id, contract.CANCEL_METHOD, payload, waits).payload


def _invoke(
    registry: IoTHubRegistryManager,
    device_id: str,
    name: str,
    payload: contract.Json,
    waits: tuple[int, int],
) -> Any:
    method = CloudToDeviceMethod(
        method_name=name,
        payload=payload,
        response_timeout_in_seconds=waits[0],
        connect_timeout_in_seconds=waits[1],
    )
    with hub_errors(device_id):
        answer = registry.invoke_device_method(device_id, method)
    if answer.status != 200:
        raise _rejection(device_id, name, answer.status, answer.payload)
    return answer


def watch_update(
    registry: IoTHubRegistryManager,
    device_id: str,
    *,
    update_id: str | None = None,
    interval: float = 0.5,
    timeout: float | None = None,
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
        update_id: The id of the update, from `invoke_firmware_update`.
        interval: Seconds between two reads of the twin.
        timeout: Seconds after which to give up; None waits for ever.
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
    while True:
        with hub_errors(device_id):
            twin = registry.get_twin(device_id)
        before, reported = reported, _reported(twin)
        ended = watch.ended(reported)
        if reported != before:
            yield twin
        if ended:
            return
        left = math.inf if deadline is None else deadline - clock()
        if left <= 0:
            raise _late(device_id, reported)
        sleep(min(interval, left))


def wait_for_update(
    registry: IoTHubRegistryManager,
    device_id: str,
    update_id: str | None = None,
    *,
    interval: float = 0.5,
    timeout: float | None = 300,
    on_change: Callable[[Twin], object] | None = None,
) -> Twin:
    """Wait until an update has completed, and return the device twin of that moment.

    Args:
        registry: The service client.
        device_id: The device to watch.
        update_id: The id of the update; see `watch_update` for what None means.
        interval: Seconds between two reads of the twin.
        timeout: Seconds after which to give up; None waits for ever.
        on_change: Called with the twin at once and after every change.

    Raises:
        UpdateFailed: The update ended in an error, was rolled back, or another one has begun.
        UpdateTimeout: The update did not end in time.
        FirmwareUpdateError: The hub was not reached or refused the request; see `hub_errors`.
    """
    twin: Twin = None
    for twin in watch_update(
        registry, device_id, update_id=update_id, interval=interval, timeout=timeout
    ):
        if on_change:
            on_change(twin)
    failure = update_failure(device_id, _reported(twin))
    if failure:
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


def _rejection(device_id: str, name: str, status: int, payload: Any) -> UpdateRejected:
    reasons = {
        400: "it cannot use the payload or its package URI; correct them",
        404: f"it has no direct method {name}; start a device that has one",
        409: "an update is running already; wait for its end",
    }
    reason = reasons.get(status, "see the payload of its answer")
    told = payload.get(contract.ERROR_KEY) if isinstance(payload, Mapping) else None
    if isinstance(told, Mapping) and told.get(contract.ERROR_MESSAGE):
        reason = f"{told.get(contract.ERROR_CODE)}. {told[contract.ERROR_MESSAGE]}".rstrip(".")
    message = f"Device {device_id} refused {name} with status {status}: {reason}."
    return UpdateRejected(device_id, message, status=status, payload=payload)


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


def _reported(twin: Twin) -> contract.Json:
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


def _final(reported: contract.Json) -> bool:
    return reported.get(contract.STATUS) in contract.FINAL_STATUSES


def _moved(reported: contract.Json, first: contract.Json) -> bool:
    keys = (contract.STATUS, contract.DOWNLOAD_COMPLETE, contract.LAST_UPDATE)
    return any(reported.get(key) != first.get(key) for key in keys)
