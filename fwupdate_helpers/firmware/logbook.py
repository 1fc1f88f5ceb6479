"""What the twin should tell of an update: kept on the flash chip first, then reported to the hub.

So after a loss of power the device knows where it was, and the twin is never ahead of the device.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.contract import UpdateOrder
from fwupdate_helpers.contract_firmware import (
    CURRENT,
    HEEDED,
    UPDATE_STATUS,
    heeded_patch,
    status_patch,
)
from fwupdate_helpers.firmware.board import DOWNLOAD_FILE, Board
from fwupdate_helpers.firmware.desired import Verdict
from fwupdate_helpers.firmware.surroundings import Surroundings
from fwupdate_helpers.merge import difference, merge

Json = dict[str, Any]

_OWN_KEYS: Final = (
    contract.STATUS,
    contract.LOG_TIME,
    contract.DOWNLOAD_COMPLETE,
    contract.STARTED_APPLYING,
    contract.LAST_UPDATE,
    contract.UPDATE,
    contract.FIRMWARE,
)


class Logbook:
    """The record of the last update, and what the hub has heard of it.

    Args:
        board: Where the record is kept; None keeps it in memory.
        around: The device around it, which reports to the hub.

    Attributes:
        record: The update as it lies on the chip: its ids, its order while it runs, what it told.
        told: What the twin should tell.
        acknowledged: What the hub is known to have.
    """

    def __init__(self, board: Board | None, around: Surroundings) -> None:
        self.record: Json = {}
        self.told: Json = {}
        self.acknowledged: Json = {}
        self._board = board
        self._around = around
        self._mirroring = asyncio.Lock()

    def read(self, reported: Json) -> None:
        """Read the record after a start; `reported` are the reported properties of the hub."""
        self.acknowledged = {key: reported[key] for key in _OWN_KEYS if key in reported}
        self.record = (self._board.read_record() if self._board else None) or {}

    def open(self, order: UpdateOrder) -> None:
        """Begin the record of an update; `advance` or `save` keeps it."""
        self.record = {
            "updateId": order.update_id,
            "fingerprint": order.fingerprint,
            "attempt": uuid.uuid4().hex,  # an update id may come back after another update
            "order": asdict(order),
            "heeded": self.record.get("heeded"),
        }

    def heed(self, update_id: str | None) -> None:
        """Note which desired firmware is heeded, or that it was removed; `save` keeps it."""
        ended = {"updateId": None, "fingerprint": None, "attempt": None, "order": None}
        self.record = {**(self.record or ended), "heeded": update_id}
        self.tell(heeded_patch(update_id))

    def refuse(self, verdict: Verdict, now: datetime) -> None:
        """Tell a desired firmware that is refused as an update that failed; `save` keeps it."""
        update_id, code = str(verdict.update_id), str(verdict.code)
        self.record |= {"updateId": update_id, "fingerprint": None, "order": None}
        self.tell(contract.opening_patch(update_id, now, verdict.version))
        self.tell(contract.error_patch(now, contract.WAITING, code, verdict.message))

    def recall_progress(self, order: UpdateOrder) -> None:
        """Tell what is on the chip, of the total that the hub has heard of."""
        heard = self.acknowledged.get(contract.UPDATE) or {}
        total = heard.get(contract.TOTAL)
        if heard.get(contract.UPDATE_ID) != order.update_id or not total or not self._board:
            return
        received = self._board.flash.size(DOWNLOAD_FILE)
        self.tell(contract.progress_patch(received / total, received, total))

    @property
    def heeded(self) -> str | None:
        """The id of the desired firmware that was heeded last.

        A board remembers by itself, because the twin may tell of the board that was there before.
        """
        memory = self.record.get("heeded") if self._board else self._firmware.get(HEEDED)
        return str(memory) if memory else None

    @property
    def version(self) -> str | None:
        """The version that the twin tells."""
        version = self._firmware.get(contract.CURRENT_VERSION)
        return version if isinstance(version, str) else None

    @property
    def was_interrupted(self) -> bool:
        """Whether the update of the desired firmware ended because the device stopped."""
        update = self.told.get(contract.UPDATE) or {}
        code = (update.get(contract.ERROR_KEY) or {}).get(contract.ERROR_CODE)
        return code == contract.CODE_INTERRUPTED and self.is_about(self.heeded)

    @property
    def is_current(self) -> bool:
        """Whether the twin should tell that the desired firmware runs."""
        return self._firmware.get(UPDATE_STATUS) == CURRENT

    def is_about(self, update_id: str | None) -> bool:
        """Whether the twin should tell of this update."""
        update = self.told.get(contract.UPDATE) or {}
        return update_id is not None and update.get(contract.UPDATE_ID) == update_id

    @property
    def _firmware(self) -> Json:
        firmware = self.told.get(contract.FIRMWARE)
        return firmware if isinstance(firmware, dict) else {}

    def close(self) -> None:
        """End the record of an update: its order goes, with the URI, which may hold a signature."""
        self.record |= {"order": None}

    def disown(self) -> None:
        """Forget whose record it is, so that the service may ask for the same update again."""
        self.record |= {"updateId": None, "fingerprint": None}

    @property
    def is_unheard(self) -> bool:
        """Whether the hub does not know yet what is to be told of the update."""
        return self.acknowledged.get(contract.UPDATE) != self.told.get(contract.UPDATE)

    @property
    def stage(self) -> str:
        """The stage that has begun and not ended."""
        return contract.open_stage(self.told) or contract.WAITING

    def tell(self, patch: Json) -> None:
        """Change what the twin should tell; `save` and `mirror` bring it further."""
        self.told = merge(self.told, patch)
        if contract.UPDATE in patch:
            patch = status_patch(self.told, keeps_version=self._board is None)
            self.told = merge(self.told, patch)

    async def advance(self, patch: Json) -> None:
        """Tell, save and mirror."""
        self.tell(patch)
        self.save()
        await self.mirror()

    def save(self) -> None:
        """Keep the record on the chip."""
        if self.record:
            self.record["told"] = self.told
            if self._board:
                self._board.write_record(self.record)

    def save_the_end(self) -> None:
        """Keep the record and free the space of the download, the other way round if need be."""
        try:
            self.save()
        except OSError:  # no room; there is some without the download
            if self._board is None:
                raise
            self._board.drop_download()
            self.save()
        if self._board:
            self._board.drop_download()

    async def mirror(self) -> None:
        """Report what the hub has not acknowledged yet; all of it, in one patch."""
        async with self._mirroring:
            told = self.told
            if patch := difference(self.acknowledged, told):
                await self._around.report(patch)
                self.acknowledged = told
