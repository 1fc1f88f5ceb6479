"""The beginning of a rollout: nobody else's devices, and a tag on each before the first order.

The order of the writes makes it safe to die at any moment. The first keeper is claimed first, the
status is then ``preparing``; the tags of all devices follow; only after them the status changes,
and orders can be given. What died before is not a rollout, and may be begun again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from fwupdate_helpers.contract import Json
from fwupdate_helpers.errors import DeviceNotFound, FirmwareUpdateError
from fwupdate_helpers.rollout.errors import (
    RolloutBusy,
    RolloutConflict,
    RolloutExists,
    RolloutNotFound,
)
from fwupdate_helpers.rollout.ledger import Ledger
from fwupdate_helpers.rollout.outcomes import Outcome, Result
from fwupdate_helpers.rollout.sealing import seal
from fwupdate_helpers.rollout.session import Session
from fwupdate_helpers.rollout.state import RolloutState
from fwupdate_helpers.rollout.terms import (
    TAG,
    UNFINISHED,
    Status,
    Tag,
    member_patch,
    progress_patch,
    read_tag,
    terms_to_json,
)
from fwupdate_helpers.rollout.twin_tags import write_tag

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager


def check_free(session: Session, rollout_id: str, chosen: Mapping[str, Tag | None]) -> None:
    """Check that the id is new, and that no device is in the middle of another rollout.

    Raises:
        RolloutExists: The id was used before.
        RolloutConflict: A device takes part in another rollout that is not over.
        RolloutBusy: Another kernel begins this rollout.
    """
    _check_id_is_new(session, rollout_id)
    others = {tag.rollout_id: device_id for device_id, tag in chosen.items() if tag is not None}
    for other, device_id in others.items():
        if other != rollout_id and _is_under_way(session, other):
            raise RolloutConflict(
                rollout_id,
                f"The device {device_id} takes part in the rollout {other}, which is not over. "
                f"Finish that one: Rollout.load(hub, {other!r}).resume(), or end it with cancel().",
            )


def _check_id_is_new(session: Session, rollout_id: str) -> None:
    try:
        ledger, _ = session.find_ledger(rollout_id)
    except RolloutNotFound:
        return
    status = ledger.progress.status
    if status is Status.PREPARING:
        _check_dead(ledger)
        return
    raise RolloutExists(
        rollout_id,
        f"There is a rollout {rollout_id} on the hub already ({status.value}). "
        f"Rollout.load(hub, {rollout_id!r}) goes on with it, and its forget() takes it off the "
        "hub; or choose a new id.",
    )


def _is_under_way(session: Session, rollout_id: str) -> bool:
    try:
        ledger, _ = session.find_ledger(rollout_id)
        if ledger.progress.status is Status.PREPARING:
            _check_dead(ledger)
    except RolloutNotFound:
        return False
    except RolloutBusy:
        return True
    return ledger.progress.status in UNFINISHED


def _check_dead(ledger: Ledger) -> None:
    """Raise `RolloutBusy` when the kernel that prepares a rollout is alive."""
    ledger.claim()
    ledger.release()


def prepare(session: Session, state: RolloutState) -> Ledger:
    """Write the plan on the hub, and return its record, which this kernel then owns.

    Devices that were deleted meanwhile are noted as gone.

    Raises:
        RolloutBusy: Another kernel begins a rollout on the same devices.
        FirmwareUpdateError: The hub was not reached or refused a request.
    """
    terms = state.terms
    content = terms_to_json(terms, seal(session.hub, terms.image.uri))
    ledger = session.ledger(terms.rollout_id, terms.run, terms.keepers)
    ledger.open(content)
    try:
        _clear_leftovers(session, state)
        _tag_devices(session, state, ledger, content)
        ledger.save(ledger.progress.with_(status=Status.RUNNING))
    except BaseException:
        with suppress(FirmwareUpdateError):
            ledger.release()
        raise
    return ledger


def _clear_leftovers(session: Session, state: RolloutState) -> None:
    """Take off the tags of a beginning that died, where the device is not chosen again."""
    ours = {device_id for wave in state.waves for device_id in wave.device_ids}
    condition = f"tags.{TAG}.id = '{state.terms.rollout_id}'"
    left = [
        twin.device_id
        for twin in session.members.query(condition)
        if twin.device_id not in ours and read_tag(twin.tags) is not None
    ]
    remove_tags(session, left)


def remove_tags(session: Session, device_ids: list[str]) -> None:
    """Delete the tag ``rollout`` of devices; nothing where a device is gone."""

    def remove(registry: IoTHubRegistryManager, device_id: str) -> None:
        with suppress(DeviceNotFound):
            write_tag(registry, device_id, None, policy=session.options.policy)

    session.pool.gather(partial(remove, device_id=each) for each in device_ids)


def _tag_devices(session: Session, state: RolloutState, ledger: Ledger, content: Json) -> None:
    terms = state.terms

    def tag(registry: IoTHubRegistryManager, device_id: str, wave: int) -> None:
        patch = member_patch(terms.rollout_id, terms.run, wave)
        if device_id in terms.keepers:
            patch |= {"terms": content, "progress": progress_patch(ledger.progress)}
        try:
            write_tag(registry, device_id, patch, policy=session.options.policy)
        except DeviceNotFound:
            state.results[device_id] = Result(Outcome.GONE)

    calls = [
        partial(tag, device_id=device_id, wave=wave.number)
        for wave in state.waves
        for device_id in wave.device_ids
        if device_id != terms.keepers[0]
    ]
    session.pool.gather(calls, tick=ledger.beat)
