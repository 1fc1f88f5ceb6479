"""The answers to a service's orders that need no look at the hub: accepted, refused, repeated."""

from __future__ import annotations

from typing import Any

from fwupdate_helpers import contract
from fwupdate_helpers.contract import UpdateOrder
from fwupdate_helpers.firmware.board import Boot

Json = dict[str, Any]
Answer = tuple[int, Json]
"""The status and the payload of an answer to a direct method."""


def refusal(code: str, message: str) -> Json:
    """Return the payload of a direct method that the device refuses."""
    return {contract.ERROR_KEY: {contract.ERROR_CODE: code, contract.ERROR_MESSAGE: message}}


def answer_repeated(order: UpdateOrder, record: Json) -> Answer | None:
    """Return the answer to an order whose id the last update had; None for another id."""
    if record.get("updateId") != order.update_id:
        return None
    if record["fingerprint"] == order.fingerprint:
        return 200, dict(contract.RESPONSE_REPEATED)
    return 409, refusal(
        "updateIdInUse", "Another order had this updateId. Give each update its own."
    )


def answer_for_board(order: UpdateOrder, boot: Boot | None) -> Answer | None:
    """Return the answer to an order that this device cannot follow, or has followed already.

    Args:
        order: What the service asks for.
        boot: What runs on the board; None for a device without one.
    """
    if boot is None:
        return None if order.is_simulated else _no_board()
    if order.is_simulated and _means_an_image(order):
        return 400, refusal(
            contract.CODE_URI_REFUSED,
            "The package URI has no scheme, so no image could be fetched. Write https:// in "
            "front of it.",
        )
    if _runs_already(order, boot):
        return 200, dict(contract.RESPONSE_UP_TO_DATE)
    return None


def _no_board() -> Answer:
    return 400, refusal(
        "noBoard",
        "This device has no board with a flash chip and a publisher's key, so it takes no "
        "image. Give SimulatedDevice a board, or send a name without a scheme.",
    )


def _means_an_image(order: UpdateOrder) -> bool:
    named = order.version is not None or order.check_value is not None
    return named or any(mark in order.package_uri for mark in "/?\\")


def _runs_already(order: UpdateOrder, boot: Boot) -> bool:
    if order.version is None or order.allow_downgrade:
        return False
    return contract.parse_version(order.version) == contract.parse_version(boot.version)


def busy() -> Answer:
    """Return the answer to an order that comes while another update runs."""
    return 409, refusal("busy", "A firmware update is already running.")


def refused_cancel(update_id: str | None, running: str | None, *, switching: bool) -> Answer | None:
    """Return the answer to a cancel that comes to nothing; None when the update can be given up.

    Args:
        update_id: The update that is meant; None means whichever runs.
        running: The update that runs; None when there is none.
        switching: Whether the device has begun to switch to the new image.
    """
    if running is None:
        return 409, refusal("noUpdate", "No firmware update is running.")
    if update_id not in (None, running):
        return 409, refusal("otherUpdate", "Another firmware update is running.")
    if switching:
        return 409, refusal(
            "tooLate",
            "The device is switching to the new image and cannot stop half-way. Update to the "
            f"older version afterwards, with {contract.ALLOW_DOWNGRADE!r}.",
        )
    return None
