"""How patient a device is with its hub, all in one place."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

_POSITIVE: Final = (
    *(
        "answer_seconds",
        "connect_seconds",
        "start_seconds",
        "trial_seconds",
        "longest_wait",
        "unanswered",
    ),
    *("evictions", "eviction_seconds", "waiting_reports"),
)


@dataclass(frozen=True)
class LinkPolicy:
    """The limits of a device's connection to its hub.

    Attributes:
        answer_seconds: How long the hub may take to answer a twin request while the device is
            connected; then it is sent again, which does no harm.
        connect_seconds: How long one try to connect may take.
        start_seconds: How long `SimulatedDevice.start` keeps trying: to connect, and to get the
            first answers. Later on, a device never gives up.
        trial_seconds: How long firmware on trial may take to reach the hub after its reboot.
        first_wait: Back-off: the most that the device waits after the first try that failed, in
            seconds; it doubles with every further one. The wait itself is drawn anew between zero
            and the most, so that a thousand devices do not come back at once ("full jitter").
        longest_wait: Where the doubling ends, in seconds.
        unanswered: After so many requests in a row without an answer, the device connects anew.
        evictions: After so many connections in a row that were lost within `eviction_seconds`
            each, the device asks the hub whether another client has written its reported
            properties. If one has, and takes the connection once more, the device gives way to it.
            Else it keeps coming back, a little later after each connection that brought nothing.
        eviction_seconds: See `evictions`.
        waiting_reports: So many reports may wait for the hub; who has one more waits for room.

    Raises:
        ValueError: A limit is zero or less, or `first_wait` is negative.
    """

    answer_seconds: float = 5.0
    connect_seconds: float = 20.0
    start_seconds: float = 15.0
    trial_seconds: float = 60.0
    first_wait: float = 0.5
    longest_wait: float = 5.0
    unanswered: int = 2
    evictions: int = 5
    eviction_seconds: float = 2.0
    waiting_reports: int = 64

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than zero.")
        if self.first_wait < 0:
            raise ValueError("first_wait must not be negative.")

    def wait_after(self, failures: int) -> float:
        """Draw the seconds to wait after so many failures in a row, from 1."""
        most = self.first_wait * 2.0 ** min(failures - 1, 100)
        return random.uniform(0, min(self.longest_wait, most))  # noqa: S311 (no secret)
