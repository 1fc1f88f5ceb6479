"""A download onto a real board's flash chip, through dropped connections and a power cut."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware.board import DOWNLOAD_FILE, Board
from fwupdate_helpers.firmware.download import DownloadPolicy, download, tls_context
from fwupdate_helpers.firmware.download_file import DownloadFile
from tests.image_server import Fault, ImageServer
from tests.images import PUBLISHER, build

MIB = 1024 * 1024
QUICK = DownloadPolicy(first_wait=0.01, longest_wait=0.02, attempts=3)


class Device:
    """A board that fetches one image; each `restart` is a power cut."""

    def __init__(self, folder: Path) -> None:
        self._board = Board(build(folder / "1.0.0.img", "1.0.0"), PUBLISHER.public_key())
        self._board.power_up()
        self.record: dict[str, object] = {}
        self.retries: list[str] = []

    def fetch(self, server: ImageServer, policy: DownloadPolicy = QUICK) -> bytes:
        sink = DownloadFile(self._board, self.record)
        asyncio.run(
            download(
                server.url,
                sink,
                policy,
                tls=tls_context(server.ca_pem),
                on_progress=lambda received, total: None,
                on_retry=self.retries.append,
            )
        )
        return self._board.flash.read(DOWNLOAD_FILE, 0, 10**9)

    def restart(self) -> None:
        self._board.cut_power()
        self._board.power_up()
        self.record = dict(self._board.read_record() or {})


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_20_mib_arrive_over_ten_dropped_connections_and_hardly_a_byte_twice(
    device: Device, reset: bool
) -> None:
    image = os.urandom(20 * MIB)
    with ImageServer(image) as server:
        for number in range(10):
            server.script.append(Fault(drop_after=MIB + 100_003 * number, reset=reset))
        assert device.fetch(server) == image
        assert len(server.requests) == 11
        if not reset:  # a reset also throws away what the device has not read yet
            assert server.sent < 1.2 * len(image)
    assert len(device.retries) == 10


def test_a_download_goes_on_after_a_power_cut_from_what_was_synced(device: Device) -> None:
    image = os.urandom(3 * MIB)
    with ImageServer(image) as server:
        server.script.append(Fault(drop_after=2 * MIB))
        server.always = Fault(drop_at_once=True)
        with pytest.raises(DownloadError) as failed:
            device.fetch(server)
        device.restart()
        server.always = Fault()
        assert device.fetch(server) == image
        assert server.sent == len(image)
    assert failed.value.code == "downloadFailed"
