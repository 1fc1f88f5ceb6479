"""The service side of an update: invoke it, watch the device twin, wait for the end.

Everything here works on a real ``IoTHubRegistryManager`` and raises this kit's errors instead of
the SDK's, which keep IoT Hub's error code hidden in the body of the response. What may be tried
again is tried again (`retries`); a direct method that may have run is looked for in the twin
instead (`resolving`). The watch itself is in `watching`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from azure.iot.hub.models import CloudToDeviceMethod

from fwupdate_helpers import contract
from fwupdate_helpers.errors import UpdateRejected
from fwupdate_helpers.resolving import has_begun, look_for, was_cancelled
from fwupdate_helpers.retries import OnRetry, Operation, RetryPolicy
from fwupdate_helpers.sdk_errors import hub_errors
from fwupdate_helpers.watching import (
    CODE_SUPERSEDED,
    update_failure,
    wait_for_update,
    watch_update,
)

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager


@dataclass(frozen=True)
class InvokedUpdate:
    """A firmware update that the device has accepted.

    Attributes:
        device_id: The device.
        update_id: The id to watch for in the twin's `firmwareUpdate.updateId`.
        status: The status of the device's answer.
        payload: The payload of the device's answer.
        resolved_from_twin: Whether the answer was lost, and the device twin tells that the update
            has begun; status and payload are then those that the device answers with.
    """

    device_id: str
    update_id: str
    status: int
    payload: Any
    resolved_from_twin: bool = False

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
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> InvokedUpdate:
    """Invoke the direct method `firmwareUpdate` on a device.

    An answer that is lost (504101, a broken connection) leaves open whether the update began, so
    the method is never simply repeated: the device twin is asked for the update's id. When it is
    there, the update has begun. When it is not, and the device reports ids at all, the method is
    invoked again with the same id, which such a device takes for the same update.

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
        policy: How often and how long to try; None is the default policy, `RetryPolicy.none()`
            tries once. `RETRY_RULES` is the table of what is tried again.
        on_retry: Called with a `Retry` before each further try, and before the twin is asked.

    Raises:
        DeviceNotFound: The hub has no such device, or it is disabled.
        DeviceOffline: The device is not connected or listens to no direct method.
        UpdateRejected: The device answered with another status than 200.
        UpdateTimeout: The device did not answer in time; it may still have begun.
        HubThrottled: The hub had too many requests, to the last try.
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
    method = _method(contract.METHOD, payload, response_timeout, connect_timeout)

    def invoke() -> InvokedUpdate:
        answer = _invoke(registry, device_id, method)
        return InvokedUpdate(device_id, update_id, answer.status, answer.payload)

    def found(reported: contract.Json) -> InvokedUpdate | None:
        if not has_begun(reported, update_id):
            return None
        payload = dict(contract.RESPONSE_STARTED)
        return InvokedUpdate(device_id, update_id, 200, payload, resolved_from_twin=True)

    return (policy or RetryPolicy()).call(
        invoke,
        operation=Operation.METHOD,
        device_id=device_id,
        on_retry=on_retry,
        resolve=look_for(registry, device_id, found=found, on_retry=on_retry),
    )


def cancel_firmware_update(
    registry: IoTHubRegistryManager,
    device_id: str,
    update_id: str | None = None,
    *,
    response_timeout: int = 60,
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> Any:
    """Invoke the direct method `cancelFirmwareUpdate` on a device; return the answer's payload.

    The update then ends with the error code ``cancelled``, which the twin tells. An answer that is
    lost is looked for there, as `invoke_firmware_update` does, when the id is given.

    Args:
        registry: The service client.
        device_id: The device.
        update_id: The update that is meant; None means whichever runs.
        response_timeout: Seconds to wait for the answer, 5 to 300.
        policy: As in `invoke_firmware_update`.
        on_retry: As in `invoke_firmware_update`.

    Raises:
        UpdateRejected: No such update runs (code ``noUpdate`` or ``otherUpdate`` in the payload),
            or the device is switching to the new image and cannot stop (``tooLate``).
        FirmwareUpdateError: As `invoke_firmware_update`.
    """
    payload = {} if update_id is None else {contract.UPDATE_ID: update_id}
    method = _method(contract.CANCEL_METHOD, payload, response_timeout, 0)

    def found(reported: contract.Json) -> contract.Json | None:
        gone = update_id is not None and was_cancelled(reported, update_id)
        return dict(contract.RESPONSE_CANCELLED) if gone else None

    # Without an id, a second call might hit the update after the one that was meant.
    look = look_for(registry, device_id, found=found, on_retry=on_retry) if update_id else None
    return (policy or RetryPolicy()).call(
        lambda: _invoke(registry, device_id, method).payload,
        operation=Operation.METHOD,
        device_id=device_id,
        on_retry=on_retry,
        resolve=look,
    )


def _method(name: str, payload: contract.Json, response: int, connect: int) -> Any:
    return CloudToDeviceMethod(
        method_name=name,
        payload=payload,
        response_timeout_in_seconds=response,
        connect_timeout_in_seconds=connect,
    )


def _invoke(registry: IoTHubRegistryManager, device_id: str, method: Any) -> Any:
    with hub_errors(device_id):
        answer = registry.invoke_device_method(device_id, method)
    if answer.status != 200:
        raise _rejection(device_id, method.method_name, answer.status, answer.payload)
    return answer


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
        if status == 409 and name == contract.METHOD:
            reason += ". Wait for its end"
    message = f"Device {device_id} refused {name} with status {status}: {reason}."
    return UpdateRejected(device_id, message, status=status, payload=payload)


__all__ = [
    "CODE_SUPERSEDED",
    "InvokedUpdate",
    "cancel_firmware_update",
    "invoke_firmware_update",
    "update_failure",
    "wait_for_update",
    "watch_update",
]
