"""The limits of a tier at work: how fast a hub is used, and how many messages of the day are left.

Source: Microsoft's "IoT Hub quotas and throttling" (iot-hub-devguide-quotas-throttling.md) for the
rates, "Azure IoT Hub billing information" (iot-hub-devguide-pricing.md) for what is a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import QUOTA_EXCEEDED, THROTTLED, HubError
from fwupdate_helpers.localhub.tiers import BURST_SECONDS, Operation, Tier

Json = dict[str, Any]
Clock = Callable[[], datetime]

BACKLOG_SECONDS: Final = 10.0
"""So long may a device's message wait for its turn; Azure's limit is not documented."""


class TokenBucket:
    """Grants a rate, and what was saved up before.

    Args:
        per_second: The rate.
        capacity: The most that is saved up; the bucket begins full.
        clock: Tells the time. Set back, it grants nothing until it goes on.
    """

    def __init__(self, per_second: float, capacity: float, clock: Clock) -> None:
        self._rate, self._capacity, self._clock = per_second, capacity, clock
        self._level, self._at = capacity, clock()

    @property
    def level(self) -> float:
        """What can be taken now; less than 0 while something is owed."""
        now = self._clock()
        passed = max(0.0, (now - self._at).total_seconds())
        self._level, self._at = min(self._capacity, self._level + passed * self._rate), now
        return self._level

    def take(self, amount: float) -> float:
        """Take it and return 0, or take nothing and return the seconds until it can be taken.

        What is more than the bucket ever holds can be taken when it is full; the rest is owed.
        """
        missing = min(amount, self._capacity) - self.level
        if missing > 1e-9:  # rounding is no reason to refuse
            return missing / self._rate
        self._level -= amount
        return 0.0

    def reserve(self, amount: float, *, longest: float) -> float | None:
        """Take it, or owe it; return the seconds until its turn, None where they are too many."""
        wait = max(0.0, amount - self.level) / self._rate
        if wait > longest:
            return None
        self._level -= amount
        return wait


class DailyMessages:
    """Counts the messages of a UTC day, in the hub's database: a restart gives back none."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    @property
    def used(self) -> int:
        """How many messages of today are used."""
        row = self._database.connection.execute(
            "SELECT messages FROM daily_messages WHERE day = ?", (self._today,)
        ).fetchone()
        return int(row[0]) if row else 0

    @property
    def resets_at(self) -> datetime:
        """When the next UTC day begins."""
        day = self._clock().replace(hour=0, minute=0, second=0, microsecond=0)
        return day + timedelta(days=1)

    def add(self, messages: int) -> None:
        """Count messages of today; earlier days are forgotten."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM daily_messages WHERE day < ?", (self._today,))
            connection.execute(
                "INSERT INTO daily_messages VALUES (?, ?) "
                "ON CONFLICT (day) DO UPDATE SET messages = messages + excluded.messages",
                (self._today, messages),
            )

    @property
    def _today(self) -> str:
        return f"{self._clock():%Y-%m-%d}"


class Throttle:
    """What every part of the hub asks before it does something, and tells what it has done.

    Args:
        tier: Whose limits; None means none at all, and nothing is counted.
        database: Where the messages of the day are kept.
        clock: The hub's clock, UTC.
    """

    def __init__(self, tier: Tier | None, database: Database, clock: Clock) -> None:
        self.tier = tier
        self.messages = DailyMessages(database, clock)
        self._buckets = {
            operation: TokenBucket(rate, rate * BURST_SECONDS, clock)
            for operation, rate in (tier.per_second if tier else {}).items()
        }
        self._refused = dict.fromkeys(self._buckets, 0)

    def admit(self, operation: Operation, amount: float = 1.0) -> None:
        """Let something pass that is limited in its rate.

        Args:
            operation: What it is.
            amount: How much of it.

        Raises:
            HubError: 429001, too much of it, with the seconds to wait. Azure does not promise them.
        """
        bucket = self._buckets.get(operation)
        wait = bucket.take(amount) if bucket else 0.0
        if wait > 0 and self.tier:
            self._refused[operation] += 1
            rate = self.tier.per_second[operation]
            granted = f"{rate:g} a second" if rate >= 1 else f"{rate * 60:g} a minute"
            raise HubError(
                THROTTLED,
                f"Too many {operation.value}: a hub of tier {self.tier.name} grants {granted}.",
                retry_after=math.ceil(wait),
            )

    def turn(self, operation: Operation) -> float | None:
        """Return the seconds until the turn of something that queues; None: the queue is full.

        Azure's traffic shaping, as device-to-cloud messages meet it.
        """
        bucket = self._buckets.get(operation)
        wait = bucket.reserve(1.0, longest=BACKLOG_SECONDS) if bucket else 0.0
        if wait is None:
            self._refused[operation] += 1
        return wait

    @property
    def is_used_up(self) -> bool:
        """Whether the messages of the day are used up."""
        return self.tier is not None and self.messages.used >= self.tier.daily_messages

    def check_quota(self) -> None:
        """Let something pass that costs messages of the day.

        Raises:
            HubError: 403002, they are used up.
        """
        if self.tier is None or not self.is_used_up:
            return
        raise HubError(
            QUOTA_EXCEEDED,
            f"Total number of messages on this hub exceeded the allocated quota: a hub of tier "
            f"{self.tier.name} has {self.tier.daily_messages} a day. Send and receive operations "
            f"are blocked until {self.messages.resets_at:%Y-%m-%d %H:%M} UTC.",
        )

    def charge(self, *sizes: int) -> None:
        """Count messages of the day, each with its size in bytes."""
        if self.tier is not None:
            self.messages.add(sum(map(self.tier.messages, sizes)))

    def about(self) -> Json:
        """Return the tier, and what of it is used, for the hub's status."""
        if self.tier is None:
            return {"tier": None}
        return {
            "tier": self.tier.name,
            "daily_messages": {
                "used": self.messages.used,
                "limit": self.tier.daily_messages,
                "meter_bytes": self.tier.meter_bytes,
                "resets_at": f"{self.messages.resets_at:%Y-%m-%dT%H:%M:%SZ}",
            },
            "throttled": {one.value: count for one, count in self._refused.items() if count},
        }
