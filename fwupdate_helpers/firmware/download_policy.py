"""The limits of a download, all in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024
_POSITIVE: Final = ("attempts", "total_seconds", "idle_seconds", "sync_bytes")
_NOT_NEGATIVE: Final = (
    "size_limit",
    "first_wait",
    "longest_wait",
    "longest_asked_wait",
    "redirects",
    "start_overs",
)


@dataclass(frozen=True)
class DownloadPolicy:
    """The limits of a download.

    Attributes:
        bytes_per_second: The bandwidth, over all connections; None for as fast as it goes.
        size_limit: The largest image that the device takes, in bytes.
        attempts: After so many tries in a row that brought nothing new, the device gives up.
        first_wait: Back-off: the most that the device waits after the first such try, in seconds;
            it doubles with every further one. The wait itself is drawn anew between zero and the
            most, so that a thousand devices do not come back at once ("full jitter").
        longest_wait: Where the doubling ends, in seconds.
        longest_asked_wait: How long a server may ask to wait (``Retry-After``), in seconds; what
            it asks for comes on top of the back-off.
        total_seconds: The most that the whole download may take, waits included.
        idle_seconds: When no byte comes for so long, the connection counts as lost.
        redirects: How many redirects in a row are followed.
        start_overs: How often the image may change on the server while it is downloaded.
        allow_http: Whether plain HTTP will do.
        sync_bytes: At least every so many bytes, they are synced: no more can be lost in a power
            cut, and no more has to fit into the memory in front of the flash.

    Raises:
        ValueError: A limit is negative, or zero where that allows nothing.
    """

    bytes_per_second: float | None = None
    size_limit: int = 256 * MIB
    attempts: int = 8
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_asked_wait: float = 120.0
    total_seconds: float = 3600.0
    idle_seconds: float = 30.0
    redirects: int = 5
    start_overs: int = 3
    allow_http: bool = False
    sync_bytes: int = 2 * MIB

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than zero.")
        if self.bytes_per_second is not None and self.bytes_per_second <= 0:
            raise ValueError("bytes_per_second must be more than zero, or None for no limit.")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative.")
