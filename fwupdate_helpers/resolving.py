"""Whether a direct method has run whose answer is lost: the device twin tells.

A device of this kit reports the id of an update before it answers the method, and takes the same
id a second time for what it is. So its twin tells whether an update began, and when nothing shows,
asking again with the same id does no harm. The device of Azure's tutorial reports no ids, and
begins anew whenever it is asked: there, nothing but a person can decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from fwupdate_helpers import contract
from fwupdate_helpers.reported import reported_error, section
from fwupdate_helpers.retries import CannotTell, OnRetry, Resolve, RetryPolicy
from fwupdate_helpers.watching import read_twin, reported_of

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

T = TypeVar("T")
_LOOK_SECONDS: Final = 0.25
_AT_WORK: Final = (contract.DOWNLOADING, contract.APPLYING)


def has_begun(reported: contract.Json, update_id: str) -> bool:
    """Tell whether the reported properties are of this update, at whatever stage or end."""
    return section(reported, contract.UPDATE).get(contract.UPDATE_ID) == update_id


def was_cancelled(reported: contract.Json, update_id: str) -> bool:
    """Tell whether the reported properties are of this update, and say that it was cancelled."""
    error = reported_error(reported)
    is_cancelled = error is not None and error.code == contract.CODE_CANCELLED
    return is_cancelled and has_begun(reported, update_id)


def knows_ids(reported: contract.Json) -> bool:
    """Tell whether a device takes an update id that comes twice for the same update.

    Args:
        reported: The reported properties of its twin. Those of a device that never had an update
            do not always tell; it then counts as one that knows no ids.
    """
    if contract.UPDATE not in reported:
        return contract.FIRMWARE in reported
    # Without an open stage, the ids are those that a device of this kit has left behind, and a
    # device of the tutorial works under its name.
    return reported.get(contract.STATUS) not in _AT_WORK or bool(contract.open_stage(reported))


def look_for(
    registry: IoTHubRegistryManager,
    device_id: str,
    *,
    found: Callable[[contract.Json], T | None],
    on_retry: OnRetry | None = None,
) -> Resolve[T]:
    """Return what `RetryPolicy.call` takes as `resolve`.

    Args:
        registry: The service client.
        device_id: The device.
        found: Gets the reported properties; returns what the method has brought about, or None
            when they show nothing of it.
        on_retry: Called with a `Retry` before each further try of a read.
    """

    def resolve(policy: RetryPolicy) -> T | None:
        settled = policy.clock() + policy.settle_seconds
        while True:
            twin = read_twin(registry, device_id, policy=policy, on_retry=on_retry)
            reported = reported_of(twin)
            if (result := found(reported)) is not None:
                return result
            left = settled - policy.clock()
            if left <= 0:
                break
            policy.sleep(min(_LOOK_SECONDS, left))
        if not knows_ids(reported):
            raise CannotTell("it shows no update id")
        return None

    return resolve


__all__ = ["has_begun", "knows_ids", "look_for", "was_cancelled"]
