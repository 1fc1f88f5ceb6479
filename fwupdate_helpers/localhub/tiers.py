"""What an IoT hub of a tier grants: its rates, its messages of a day, its sizes.

Source: Microsoft's "IoT Hub quotas and throttling" (iot-hub-devguide-quotas-throttling.md), for one
unit. The same page says that rates are "applied in minute ranges", and that "to accommodate burst
traffic, IoT Hub accepts requests above the throttle for a limited time": the local hub takes that
as a minute's worth at once, and the rate from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

BURST_SECONDS: Final = 60.0
"""How long a hub at rest may save up what a rate grants."""
METHOD_STEP_KB: Final = 4
"""Direct methods are throttled in steps of so many KB of the request's payload."""


class Operation(str, Enum):
    """What is limited in its rate; the value is what people read."""

    REGISTRY = "identity registry operations"
    CONNECT = "new device connections"
    TELEMETRY = "device-to-cloud messages"
    METHOD = "direct methods (KB)"
    QUERY = "queries"
    TWIN_READ = "twin reads"
    TWIN_UPDATE = "twin updates"
    JOB = "job operations"
    CONFIGURATION = "configuration operations"


@dataclass(frozen=True)
class Tier:
    """One tier, with one unit of it.

    Attributes:
        name: As in the Azure portal, such as ``F1``.
        per_second: For each operation how many a second; for direct methods KB a second.
        daily_messages: Messages of a day, UTC.
        meter_bytes: A message of the day is up to so many bytes; a larger one counts as several.
        devices: Device identities.
        configurations: Automatic device configurations.
        active_jobs: Jobs that may be active at a time.
        job_devices_per_second: On how many devices all jobs together begin in a second.
    """

    name: str
    per_second: Mapping[Operation, float]
    daily_messages: int
    meter_bytes: int
    devices: int
    configurations: int
    active_jobs: int
    job_devices_per_second: float

    def messages(self, size: int) -> int:
        """Return as how many messages of the day so many bytes count; an empty one is one.

        >>> [TIERS["F1"].messages(size) for size in (0, 512, 513, 4096)]
        [1, 1, 2, 8]
        """
        return max(1, -(-size // self.meter_bytes))


_ONE_UNIT: Final = MappingProxyType(
    {
        Operation.REGISTRY: 100 / 60,
        Operation.CONNECT: 100.0,
        Operation.TELEMETRY: 100.0,
        Operation.METHOD: 160.0,
        Operation.QUERY: 20 / 60,
        Operation.TWIN_READ: 100.0,
        Operation.TWIN_UPDATE: 50.0,
        Operation.JOB: 100 / 60,
        Operation.CONFIGURATION: 20 / 60,
    }
)
"""The rates of F1 and of one unit of S1 are the same."""

F1: Final = Tier(
    name="F1",
    per_second=_ONE_UNIT,
    daily_messages=8_000,
    meter_bytes=512,
    devices=500,
    configurations=10,
    active_jobs=1,
    job_devices_per_second=10.0,
)
S1: Final = Tier(
    name="S1",
    per_second=_ONE_UNIT,
    daily_messages=400_000,
    meter_bytes=4096,
    devices=1_000_000,
    configurations=100,
    active_jobs=1,
    job_devices_per_second=10.0,
)

TIERS: Final = {tier.name: tier for tier in (F1, S1)}
