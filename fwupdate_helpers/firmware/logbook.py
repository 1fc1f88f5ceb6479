"""What the twin should tell of an update: kept on the flash chip first, then reported to the hub.

So after a loss of power the device knows where it was, and the twin is never ahead of the device.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.contract import UpdateOrder
from fwupdate_helpers.firmware.board import Board
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
        }

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
