"""Read and write the tag ``rollout`` of device twins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwupdate_helpers.contract import Json
from fwupdate_helpers.hub_requests import retried
from fwupdate_helpers.retries import OnRetry, Operation, RetryPolicy
from fwupdate_helpers.rollout.terms import TAG

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager
    from azure.iot.hub.models import Twin


def write_tag(
    registry: IoTHubRegistryManager,
    device_id: str,
    patch: Json | None,
    *,
    etag: str | None = None,
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> Twin:
    """Merge a patch into a device's tag ``rollout``; None deletes the tag.

    Args:
        registry: The service client.
        device_id: The device.
        patch: A JSON merge patch. A second one with the same content does no harm, so it is
            written again after an error that may pass.
        etag: The ETag of the twin that it is meant for; None means whatever is there.
        policy: How often and how long to try.
        on_retry: Called with a `Retry` before each further try.

    Returns:
        The twin as it is now.

    Raises:
        DeviceNotFound: The device is gone.
        HubRequestError: 412: the twin was changed since `etag`.
        FirmwareUpdateError: The hub was not reached or refused the request; see `hub_errors`.
    """
    from azure.iot.hub.models import Twin

    tags = Twin(tags={TAG: patch})
    return retried(
        lambda: registry.update_twin(device_id, tags, etag),
        operation=Operation.TWIN,
        device_id=device_id,
        policy=policy,
        on_retry=on_retry,
    )
