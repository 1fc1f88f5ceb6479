"""What is to be seen of retries: an event for each, and a bounded log of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from fwupdate_helpers.retry_rules import Cause, Operation, Verdict, html_table


@dataclass(frozen=True)
class Retry:
    """A try failed, and it is not the end.

    Attributes:
        at: When the try had failed, UTC.
        device_id: The device that it was about.
        operation: What was asked of the hub.
        attempt: The number of the try that failed, from 1.
        cause: IoT Hub's error code or the HTTP status, where there is one; else a word.
        verdict: `Verdict.LOOK` before the twin is asked whether the method has run; `RETRY`, or
            `IF_OFFLINE_ALLOWED`, before another try.
        delay: Seconds until that other try; 0 before a look at the twin.
    """

    at: datetime
    device_id: str
    operation: Operation
    attempt: int
    cause: Cause
    verdict: Verdict
    delay: float

    def __str__(self) -> str:
        failed = f"{self.at:%H:%M:%S} Try {self.attempt} of the {self.operation.value} failed"
        return f"{failed} ({self.cause}): {self._next}."

    @property
    def _next(self) -> str:
        if self.verdict is Verdict.LOOK:
            return "it may have run, so the twin is asked"
        return f"next try in {self.delay:.1f} s"


class RetryLog:
    """The last retries, oldest first; it goes where `on_retry` is asked for, from any thread.

    Attributes:
        count: How many there were in all, those included that the log has dropped.

    Example:
        >>> log = RetryLog()
        >>> invoke_firmware_update(registry, "device-01", on_retry=log)  # doctest: +SKIP
        >>> [retry.cause for retry in log]
        []
    """

    def __init__(self, size: int = 1000) -> None:
        self.count = 0
        self._retries: deque[Retry] = deque(maxlen=size)
        self._lock = threading.Lock()

    def __call__(self, retry: Retry) -> None:
        with self._lock:
            self._retries.append(retry)
            self.count += 1

    def __iter__(self) -> Iterator[Retry]:
        with self._lock:
            return iter(list(self._retries))

    def __len__(self) -> int:
        return len(self._retries)

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "No retries."

    def _repr_html_(self) -> str:
        rows = [
            (
                f"{retry.at:%H:%M:%S}",
                retry.device_id,
                retry.operation.value,
                str(retry.attempt),
                str(retry.cause),
                retry._next,
            )
            for retry in self
        ]
        if not rows:
            return "<p>No retries.</p>"
        return html_table(("at (UTC)", "device", "operation", "try", "error", "then"), rows)


__all__ = ["Retry", "RetryLog"]
