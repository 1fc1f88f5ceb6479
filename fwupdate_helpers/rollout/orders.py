"""What the three ways of giving orders have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from fwupdate_helpers import contract
from fwupdate_helpers.contract import Json
from fwupdate_helpers.errors import (
    DeviceNotFound,
    DeviceOffline,
    FirmwareUpdateError,
    UpdateRejected,
    UpdateTimeout,
)
from fwupdate_helpers.reported import section
from fwupdate_helpers.retry_rules import cause_of
from fwupdate_helpers.rollout.judging import Answer, Reply

OFFLINE: Final = "offline"
BUSY: Final = "busy"
"""The device's code for another update that is running."""


class Orders(Protocol):
    """A way to give the orders of a rollout, wave after wave.

    Every order carries the rollout's own update id, and a device takes an id that it knows for the
    same update. So it does no harm when an order comes twice, also from two kernels.
    """

    def begin(self, wave: int, device_ids: Iterable[str]) -> None:
        """Give the orders to these devices of a wave, or go on with those that were given."""

    def seen(self, device_id: str, reported: Json) -> None:
        """Take note of what a query shows of a device of the wave."""

    def answers(self) -> dict[str, Answer]:
        """Return what has become of orders since the last look."""

    def stop_trying(self) -> None:
        """Try no more devices again that were not reached: the time for that is over."""

    def withdraw(self) -> None:
        """Give no order in this wave that is not on its way: the rollout will be stopped."""

    def end(self) -> None:
        """End the wave."""

    def give_up(self, wave: int) -> None:
        """Give no further orders at all: the rollout ended after or in this wave.

        Another kernel may have given them.
        """


def answer_of_payload(payload: object) -> Answer:
    """Return what a device's answer with status 200 means."""
    is_up_to_date = payload == contract.RESPONSE_UP_TO_DATE
    return Answer(Reply.UP_TO_DATE if is_up_to_date else Reply.STARTED)


def answer_of_refusal(status: int, payload: object) -> Answer:
    """Return what a device's answer with another status than 200 means."""
    code = section(payload, contract.ERROR_KEY).get(contract.ERROR_CODE)
    if code == BUSY:
        return Answer(Reply.UNREACHED, BUSY)
    return Answer(Reply.REFUSED, str(code or status))


def answer_of_error(error: FirmwareUpdateError) -> Answer:
    """Return what a direct method that came to nothing, or to something unknown, means."""
    if isinstance(error, DeviceNotFound):
        return Answer(Reply.GONE)
    if isinstance(error, UpdateRejected):
        return answer_of_refusal(error.status, error.payload)
    if isinstance(error, UpdateTimeout):
        return Answer(Reply.SENT, str(cause_of(error)))
    code = OFFLINE if isinstance(error, DeviceOffline) else str(cause_of(error))
    return Answer(Reply.UNREACHED, code)


def is_missing(error: FirmwareUpdateError) -> bool:
    """Tell whether the hub has no such job or configuration; a 404 without a code says "device"."""
    return isinstance(error, DeviceNotFound) or getattr(error, "status", None) == 404
