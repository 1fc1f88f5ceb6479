"""The devices of a rollout as the hub shows them: those to choose from, those that take part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from fwupdate_helpers.errors import DeviceNotFound, FirmwareUpdateError
from fwupdate_helpers.queries import query_twins, twins_query
from fwupdate_helpers.retries import OnRetry, RetryPolicy
from fwupdate_helpers.rollout.calls import CallPool
from fwupdate_helpers.rollout.terms import Tag, Terms, read_tag
from fwupdate_helpers.watching import read_twin

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager
    from azure.iot.hub.models import Twin


class Members:
    """Reads the twins of many devices.

    Args:
        registry: The service client, for queries.
        pool: Reads single twins.
        policy: How often and how long to try.
        on_retry: Called with a `Retry` before each further try.
    """

    def __init__(
        self,
        registry: IoTHubRegistryManager,
        pool: CallPool,
        *,
        policy: RetryPolicy,
        on_retry: OnRetry | None = None,
    ) -> None:
        self._registry, self._pool = registry, pool
        self._policy, self._on_retry = policy, on_retry

    def query(self, condition: str) -> Iterator[Twin]:
        """Yield the twins that a condition holds for.

        Raises:
            QueryRefused: The hub does not understand the condition.
            FirmwareUpdateError: The hub was not reached or refused the request.
        """
        query = twins_query(condition)
        return query_twins(self._registry, query, policy=self._policy, on_retry=self._on_retry)

    def read(self, device_ids: Iterable[str]) -> dict[str, Twin | None]:
        """Read single twins, which are never out of date; None for devices that are gone."""
        found: dict[str, Twin | None] = {}

        def read_one(registry: IoTHubRegistryManager, device_id: str) -> None:
            try:
                found[device_id] = read_twin(
                    registry, device_id, policy=self._policy, on_retry=self._on_retry
                )
            except DeviceNotFound:
                found[device_id] = None

        self._pool.gather(partial(read_one, device_id=each) for each in device_ids)
        return found

    def chosen(self, devices: str | Sequence[str]) -> dict[str, Tag | None]:
        """Return the devices that a rollout is for, in their order, each with its tag.

        Args:
            devices: A condition, which gives them in the order of their ids, or the ids.

        Raises:
            FirmwareUpdateError: There is none, or one that is named is not on the hub.
        """
        if isinstance(devices, str):
            twins = {twin.device_id: twin for twin in self.query(devices)}
            found = {device_id: read_tag(twins[device_id].tags) for device_id in sorted(twins)}
        else:
            found = self._named(devices)
        if not found:
            raise FirmwareUpdateError(
                f"No device is meant by {devices!r}, so there is nothing to roll out. On Azure a "
                "query finds new tags some seconds later; try again then."
            )
        return found

    def _named(self, device_ids: Sequence[str]) -> dict[str, Tag | None]:
        twins = self.read(dict.fromkeys(device_ids))
        missing = [device_id for device_id in device_ids if twins[device_id] is None]
        if missing:
            raise FirmwareUpdateError(
                f"The hub has no device {missing[0]!r}"
                + (f", and lacks {len(missing) - 1} more of the list" if missing[1:] else "")
                + ". Take it off the list, or check the spelling."
            )
        return {
            device_id: read_tag(twin.tags)
            for device_id in dict.fromkeys(device_ids)
            if (twin := twins[device_id]) is not None
        }

    def of(self, terms: Terms) -> dict[str, Tag]:
        """Return the devices that take part in a rollout, in the order of the plan."""
        tags = {twin.device_id: read_tag(twin.tags) for twin in self.query(terms.condition())}
        known = {
            each: tag for each, tag in tags.items() if tag is not None and tag.run == terms.run
        }
        return dict(sorted(known.items(), key=lambda item: (item[1].wave, item[0])))
