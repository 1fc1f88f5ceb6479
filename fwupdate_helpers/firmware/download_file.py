"""The download as a file on the flash chip, as `download` fills it."""

from __future__ import annotations

from typing import Any

from fwupdate_helpers.firmware.board import DOWNLOAD_FILE, Board

Json = dict[str, Any]


class DownloadFile:
    """The `Sink` of a download on a board.

    Args:
        board: The board.
        record: The record of the update, which remembers whose bytes these are.
    """

    def __init__(self, board: Board, record: Json) -> None:
        self._board, self._record = board, record

    @property
    def size(self) -> int:
        return self._board.flash.size(DOWNLOAD_FILE)

    @property
    def validator(self) -> str | None:
        validator: str | None = self._record.get("validator")
        return validator

    def append(self, data: bytes) -> None:
        self._board.check_space(len(data))
        self._board.flash.append(DOWNLOAD_FILE, data)

    def sync(self) -> None:
        self._board.flash.sync(DOWNLOAD_FILE)

    def start_over(self, validator: str | None) -> None:
        # In this order: bytes of one image must never stand beside the validator of another.
        self._board.drop_download()
        self._record["validator"] = validator
        self._board.write_record(self._record)
        self._board.flash.create(DOWNLOAD_FILE)
        self._board.flash.sync_directory()
