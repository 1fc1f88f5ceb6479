"""Reads one device twin again and again, with a service client of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.errors import HubUnavailable, UpdateTimeout
from fwupdate_helpers.hang_up import HangUp, HungUp
from fwupdate_helpers.sdk_errors import hub_errors

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager
    from azure.iot.hub.models import Twin

    from fwupdate_helpers.hub import Hub

CONNECT_SECONDS: Final = 5.0
"""How long a connection to the hub may take: what comes before it, no other thread can end."""
READ_SECONDS: Final = 5.0
"""How long one read may take."""
FORGOTTEN_SECONDS: Final = 900.0
"""Without a change for so long, nobody looks any more; see `HubPace.forgotten`."""
IDLE_FACTOR, ASLEEP_FACTOR, ASLEEP_SECONDS = 4, 20, 60.0
"""When nothing runs, the twin is read less often; after a minute without a change, even less."""


@contextmanager
def service_client(hub: Hub, hang_up: HangUp) -> Iterator[IoTHubRegistryManager]:
    """Yield a service client for the calling thread, and close its connection afterwards.

    Args:
        hub: The hub to talk to.
        hang_up: Ends what the client waits for, from another thread.
    """
    registry = hub.new_registry()
    hang_up.attach(registry)
    connection = registry.protocol.config.connection
    connection.timeout = (CONNECT_SECONDS, connection.timeout)
    try:
        yield registry
    finally:
        registry.protocol.close()


class TwinReader:
    """Reads the twin of a device, not more often than there is reason to.

    Args:
        registry: A service client of the thread that reads; its patience is shortened.
        device_id: The device.
        interval: Seconds between two reads while something goes on.
        forgotten: See `HubPace.forgotten`.

    Attributes:
        twin: The twin of the last read that went well, or None.
        problem: Why the last read went wrong, or None.
    """

    def __init__(
        self,
        registry: IoTHubRegistryManager,
        device_id: str,
        interval: float,
        *,
        forgotten: float = 0.0,
    ) -> None:
        registry.protocol.config.connection.timeout = READ_SECONDS
        self._registry, self._device_id, self._interval = registry, device_id, interval
        self._forgotten = forgotten
        self.twin: Twin | None = None
        self.problem: Exception | None = None
        self._read_at = self._changed_at = float("-inf")

    def is_due(self, now: float, *, lively: bool) -> bool:
        """Tell whether it is time to read.

        Args:
            now: Seconds of a clock that never goes back.
            lively: Whether an update runs or a press is being worked on.
        """
        calm = now - self._changed_at
        factor = 1 if lively else ASLEEP_FACTOR if calm > ASLEEP_SECONDS else IDLE_FACTOR
        # A little early is better than a whole turn late.
        wait = (factor - 0.2) * self._interval
        if not lively and calm > FORGOTTEN_SECONDS:
            wait = max(wait, self._forgotten)
        return now - self._read_at >= wait

    def read(self, now: float) -> None:
        """Read the twin; what goes wrong is in `problem`.

        Raises:
            HungUp: The client's requests have been ended.
        """
        etag, self._read_at = getattr(self.twin, "etag", None), now
        before = (etag, getattr(self.twin, "version", None), str(self.problem))
        self.problem = self._try() and self._try()  # the hub may have dropped the connection
        after = (getattr(self.twin, "etag", None), getattr(self.twin, "version", None))
        if (*after, str(self.problem)) != before:
            self._changed_at = now

    def _try(self) -> Exception | None:
        """Read the twin; return why it could not be read."""
        try:
            with hub_errors(self._device_id):
                self.twin = self._registry.get_twin(self._device_id)
        except HungUp:
            raise
        except UpdateTimeout as error:  # worded for a direct method
            return _slow(error)
        except Exception as error:  # the panel shows it, whatever it is
            return error
        return None


def _slow(cause: Exception) -> HubUnavailable:
    problem = HubUnavailable(
        f"The hub did not answer within {READ_SECONDS:.0f} seconds. Check that it runs and that "
        "the network leads to it."
    )
    problem.__cause__ = cause
    return problem
