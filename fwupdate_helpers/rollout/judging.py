"""From what the hub answered and what the device reported to the end on that device: pure logic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fwupdate_helpers import contract
from fwupdate_helpers.fleet_view import FleetRow
from fwupdate_helpers.rollout.outcomes import Outcome, Result
from fwupdate_helpers.watching import CODE_SUPERSEDED


class Reply(str, Enum):
    """What became of the order to a device, as far as the service knows."""

    SENT = "sent"
    """On its way, or the answer is lost: the update may have begun."""
    STARTED = "started"
    UP_TO_DATE = "upToDate"
    REFUSED = "refused"
    UNREACHED = "unreached"
    """The device got nothing, so the order can be given again."""
    WITHDRAWN = "withdrawn"
    """The device got nothing, and gets no order any more."""
    GONE = "gone"


@dataclass(frozen=True)
class Answer:
    """What became of the order to one device.

    Attributes:
        reply: See `Reply`.
        code: The error code of a refusal, or why the device was not reached.
    """

    reply: Reply
    code: str | None = None


_ENDS = {
    Reply.UP_TO_DATE: Outcome.UP_TO_DATE,
    Reply.REFUSED: Outcome.FAILED,
    Reply.WITHDRAWN: Outcome.NOT_REACHED,
    Reply.GONE: Outcome.GONE,
}


@dataclass
class Followed:
    """What is known of one device of the wave.

    Attributes:
        answer: What became of its order; None while none was given.
        has_begun: Whether the device has told of this update, at any time.
    """

    answer: Answer | None = None
    has_begun: bool = False

    def judge(
        self, row: FleetRow | None, update_id: str, *, reach_is_over: bool, wave_is_over: bool
    ) -> Result | None:
        """Tell how the update ended, or None as long as that is open.

        What the device tells of another update says nothing: it may be of last month, or, as a
        query lags behind on Azure, of a minute ago.

        Args:
            row: The device as the hub shows it; None when it is not to be seen.
            update_id: The id of this update.
            reach_is_over: Whether the time for giving the order is over.
            wave_is_over: Whether the time for the update is over.
        """
        if row is not None and row.belongs_to(update_id):
            self.has_begun = True
            return _end(row) or (Result(Outcome.LATE) if wave_is_over else None)
        if self.has_begun and row is not None:
            return Result(Outcome.FAILED, CODE_SUPERSEDED)
        reply = self.answer.reply if self.answer else Reply.UNREACHED
        code = self.answer.code if self.answer else None
        if reply in _ENDS:
            return Result(_ENDS[reply], code)
        if reply is Reply.UNREACHED and not self.has_begun:
            return Result(Outcome.NOT_REACHED, code) if reach_is_over else None
        return Result(Outcome.LATE, code) if wave_is_over else None


def _end(row: FleetRow) -> Result | None:
    if row.outcome is None:
        return None
    if row.outcome == contract.COMPLETED:
        return Result(Outcome.COMPLETED)
    return Result(Outcome.FAILED, row.error_code or row.outcome)
