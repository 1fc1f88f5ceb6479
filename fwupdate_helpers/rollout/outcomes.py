"""How an update of the rollout ended on a device, and what that means for the next wave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Outcome(str, Enum):
    """How it ended on one device; the value is what the tag ``rollout.outcome`` holds."""

    COMPLETED = "completed"
    """The device runs the new version, by this rollout."""
    UP_TO_DATE = "upToDate"
    """The device ran that version already; nothing was started."""
    FAILED = "failed"
    """The device refused the update, or it ended in an error or in a rollback."""
    LATE = "late"
    """The update began, or may have begun, and told of no end in time. It counts as a failure."""
    NOT_REACHED = "notReached"
    """The device got no order in time: it was offline, or busy with another update."""
    GONE = "gone"
    """The device identity was deleted, or the device was taken out of the rollout."""


GOOD: Final = (Outcome.COMPLETED, Outcome.UP_TO_DATE)
FAILURES: Final = (Outcome.FAILED, Outcome.LATE)


@dataclass(frozen=True)
class Result:
    """The end on one device.

    Attributes:
        outcome: How it ended.
        code: The error code that the device or the hub gave, for example ``selfTestFailed``.
    """

    outcome: Outcome
    code: str | None = None


@dataclass(frozen=True)
class Threshold:
    """How many failures a wave may have.

    Attributes:
        abort_at: The share of the reached devices, 0 to 1; more failures stop the rollout.
    """

    abort_at: float

    def objection(self, results: Iterable[Result]) -> str | None:
        """Tell why the next wave must not begin; None when it may.

        Devices that were not reached, or are gone, prove nothing: they count neither as a success
        nor as a failure. A wave in which they are all that there is proves nothing either.
        """
        outcomes = [result.outcome for result in results]
        failed = sum(outcome in FAILURES for outcome in outcomes)
        reached = failed + sum(outcome in GOOD for outcome in outcomes)
        if not reached:
            return "no device was reached, so the wave proves nothing about the image"
        if self._is_too_much(failed, reached):
            return f"{failed:,} of {reached:,} updates failed, more than {percent(self.abort_at)}"
        return None

    def is_hopeless(self, results: Iterable[Result], size: int) -> bool:
        """Tell whether a wave of `size` devices stops the rollout whatever is still to come."""
        return self._is_too_much(sum(result.outcome in FAILURES for result in results), size)

    def _is_too_much(self, failed: int, reached: int) -> bool:
        # 0.29 * 100 is a little less than 29.
        return failed > self.abort_at * reached + 1e-9


def percent(share: float) -> str:
    """Write a share for people.

    >>> percent(0.1), percent(0.005)
    ('10 %', '0.5 %')
    """
    return f"{100 * share:g} %"
