"""What a device does about the desired `firmware` of its twin: the decision, without any I/O.

The sample of the tutorial's successor reports that it refuses, and starts the update all the same;
here a verdict is one thing only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fwupdate_helpers import contract
from fwupdate_helpers.contract import UpdateOrder, parse_version
from fwupdate_helpers.contract_firmware import CODE_BAD_DESIRED, desired_order, desired_update_id
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware import orders
from fwupdate_helpers.firmware.board import Boot
from fwupdate_helpers.firmware.uris import check_uri


@dataclass(frozen=True)
class Verdict:
    """What comes of a desired `firmware`: an update, a refusal, or neither.

    Attributes:
        update_id: Its `desired_update_id`; None when it was removed.
        order: The update that begins.
        code: Why it is refused: an error code of an update.
        message: Why it is refused, in a sentence.
        version: The version it asks for, where that could be read.
    """

    update_id: str | None
    order: UpdateOrder | None = None
    code: str | None = None
    message: str = ""
    version: str | None = None


def judge(
    content: Any,
    *,
    heeded: str | None,
    interrupted: bool,
    is_current: bool,
    running: str | None,
    boot: Boot | None,
    allow_http: bool,
) -> Verdict | None:
    """Decide about a desired `firmware`; None when there is nothing to do about it.

    Args:
        content: The desired property; None and an empty object mean that it was removed.
        heeded: The id of the one that the device has heeded last.
        interrupted: Whether that one's update was lost on its way, with nothing to resume from.
        is_current: Whether the device reports that the one it heeded last is what runs.
        running: The version that runs, where the device knows it.
        boot: What runs on the board; None for a device without one.
        allow_http: Whether plain HTTP will do for an image.
    """
    if content is None or content == {}:
        return None if heeded is None else Verdict(None)
    verdict = _judge_content(content, running, boot, allow_http=allow_http)
    if verdict.update_id != heeded or interrupted:
        return verdict
    # What failed is not tried again; but a direct method may have brought the version meanwhile.
    runs_by_now = verdict.order is None and verdict.code is None and not is_current
    return verdict if runs_by_now else None


def _judge_content(
    content: Any, running: str | None, boot: Boot | None, *, allow_http: bool
) -> Verdict:
    update_id = desired_update_id(content)
    try:
        order = desired_order(content)
        if not order.is_simulated:
            check_uri(order.package_uri, allow_http=allow_http)
    except DownloadError as error:
        return Verdict(update_id, code=error.code, message=str(error))
    except ValueError as error:
        return Verdict(update_id, code=CODE_BAD_DESIRED, message=str(error))
    return _judge_order(order, running, boot)


def _judge_order(order: UpdateOrder, running: str | None, boot: Boot | None) -> Verdict:
    update_id, version = order.update_id, str(order.version)
    step = _step(version, running)
    if step == 0:
        return Verdict(update_id, version=version)
    if step < 0 and not order.allow_downgrade:
        message = f"Version {version} is older than {running}, which runs; it is not installed."
        return Verdict(update_id, None, contract.CODE_DOWNGRADE, message, version)
    refused = orders.answer_for_board(order, boot)
    if refused is not None:
        error = refused[1][contract.ERROR_KEY]
        code, message = error[contract.ERROR_CODE], error[contract.ERROR_MESSAGE]
        return Verdict(update_id, None, code, message, version)
    return Verdict(update_id, order, version=version)


def _step(version: str, running: str | None) -> int:
    """Return 1 for a step forward, or from an unknown version; 0 for none; -1 for a step back."""
    try:
        now = parse_version(running or "")
    except ValueError:  # the twin of a device without a board may tell anything
        return 1
    wanted = parse_version(version)
    return (wanted > now) - (wanted < now)
