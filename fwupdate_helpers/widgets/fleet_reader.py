"""Reads a fleet again and again, within what the hub grants and the computer can bear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fwupdate_helpers.errors import HubRequestError
from fwupdate_helpers.fleet_view import FleetRow, fleet_rows
from fwupdate_helpers.hang_up import HungUp
from fwupdate_helpers.hub_pace import FREE_PACE, HubPace
from fwupdate_helpers.queries import twin_pages, twins_query
from fwupdate_helpers.retries import RetryPolicy
from fwupdate_helpers.widgets.twin_reader import (
    ASLEEP_FACTOR,
    ASLEEP_SECONDS,
    FORGOTTEN_SECONDS,
    IDLE_FACTOR,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from azure.iot.hub import IoTHubRegistryManager

LOCAL_SECONDS: Final = 1.0
"""Seconds between two reads of the local hub, which counts no queries."""
_SHARE: Final = 4.0
"""Reading takes no more than a fifth of the time, however slow hub and computer are."""
_PROBLEM_FACTOR: Final = 4.0


class FleetReader:
    """Reads the devices that a condition holds for, not more often than there is reason to.

    Args:
        registry: A service client of the thread that reads.
        condition: What stands after WHERE.
        interval: Seconds between two reads while updates run.
        pace: What the hub grants; each page of a query counts.
        update_id: As in `read_fleet`.
        since: As in `read_fleet`.
        clock: Tells the seconds.

    Attributes:
        rows: The rows of the last read that went well; None before the first.
        problem: Why the last read went wrong, or None.
        seconds: Seconds from the last read to the next one, while updates run.
    """

    def __init__(
        self,
        registry: IoTHubRegistryManager,
        condition: str,
        *,
        interval: float,
        clock: Callable[[], float],
        pace: HubPace = FREE_PACE,
        update_id: str | None = None,
        since: datetime | None = None,
    ) -> None:
        self._registry, self._query = registry, twins_query(condition)
        self._interval, self._pace, self._clock = interval, pace, clock
        self._update_id, self._since = update_id, since
        self.rows: tuple[FleetRow, ...] | None = None
        self.problem: Exception | None = None
        self.seconds = interval
        self._read_at = self._changed_at = float("-inf")

    def is_due(self, now: float) -> bool:
        """Tell whether it is time to read; `now` is of the clock."""
        # A little early is better than a whole turn late.
        wait = self._factor(now) * self.seconds - 0.2 * self._interval
        return now - self._read_at >= max(wait, self._asked(now))

    def _asked(self, now: float) -> float:
        """Return the least seconds to wait for the hub's sake."""
        if self.problem is not None:
            return _asked_seconds(self.problem)
        return self._pace.forgotten if now - self._changed_at > FORGOTTEN_SECONDS else 0.0

    def _factor(self, now: float) -> float:
        if self.problem is not None:
            return _PROBLEM_FACTOR
        if self.rows is None or any(row.is_running for row in self.rows):
            return 1
        return ASLEEP_FACTOR if now - self._changed_at > ASLEEP_SECONDS else IDLE_FACTOR

    def read(self) -> None:
        """Read the fleet; what goes wrong is in `problem`.

        Raises:
            HungUp: The client's requests have been ended.
        """
        began, before, pages = self._clock(), (self.rows, str(self.problem)), 0
        try:
            twins = []
            for page in twin_pages(self._registry, self._query, policy=_QUICK):
                twins += page
                pages += 1
            rows = fleet_rows(twins, update_id=self._update_id, since=self._since)
            self.rows, self.problem = tuple(rows), None
        except HungUp:
            raise
        except Exception as error:  # the board shows it, whatever it is
            self.problem = error
        self._read_at = self._clock()
        if (self.rows, str(self.problem)) != before:
            self._changed_at = self._read_at
        took = self._read_at - began
        self.seconds = max(
            self._interval, _SHARE * took, 60 * max(1, pages) / self._pace.pages_per_minute
        )


_QUICK: Final = RetryPolicy(attempts=2, base_seconds=0.1, total_seconds=5.0)
"""The hub may have dropped the connection; whatever else it is, the next read is soon enough."""


def _asked_seconds(problem: Exception | None) -> float:
    """Return how long the hub asks to wait."""
    return (problem.retry_after or 0.0) if isinstance(problem, HubRequestError) else 0.0
