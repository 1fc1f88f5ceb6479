"""A request to the hub through the SDK, made again where that may help."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fwupdate_helpers.retries import OnRetry, RetryPolicy
from fwupdate_helpers.retry_rules import Operation
from fwupdate_helpers.sdk_errors import hub_errors

T = TypeVar("T")


def retried(
    request: Callable[[], T],
    *,
    operation: Operation = Operation.REQUEST,
    device_id: str = "",
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> T:
    """Make a request that does no harm when it comes twice; its errors are the kit's own.

    Args:
        request: Calls the SDK.
        operation: What it is, for whoever is told of a retry.
        device_id: The device that it is about, where it is about one.
        policy: How often and how long to try; None is the default policy.
        on_retry: Called with a `Retry` before each further try.

    Raises:
        FirmwareUpdateError: The last error; see `hub_errors`.
    """

    def once() -> T:
        with hub_errors(device_id):
            return request()

    chosen = policy or RetryPolicy()
    return chosen.call(once, operation=operation, device_id=device_id, on_retry=on_retry)
