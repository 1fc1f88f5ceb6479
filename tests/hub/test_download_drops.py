"""The device's download through a server that fails on the wire."""

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


def test_an_image_that_changed_meanwhile_starts_over_and_is_never_mixed(device: Device) -> None:
    old, new = os.urandom(2 * MIB), os.urandom(2 * MIB)
    with ImageServer(old) as server:
        server.script.append(Fault(drop_after=MIB))
        server.script.append(Fault(before=lambda it: setattr(it, "image", new)))
        assert device.fetch(server) == new


@pytest.mark.parametrize("fault", [Fault(ignore_range=True), Fault(headers={"ETag": None})])
def test_a_server_that_cannot_resume_brings_the_whole_again(device: Device, fault: Fault) -> None:
    image = os.urandom(MIB)
    with ImageServer(image) as server:
        server.script.append(Fault(drop_after=MIB // 2, headers=fault.headers))
        server.script.append(fault)
        assert device.fetch(server) == image


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=404), "downloadRefused"),
        (Fault(status=403), "downloadRefused"),
        (Fault(status=503), "downloadFailed"),
        (Fault(drop_at_once=True), "downloadFailed"),
        (Fault(status=302, headers={"Location": "/again"}), "uriRefused"),
        (Fault(status=302, headers={"Location": "http://127.0.0.1/x"}), "uriRefused"),
    ],
)
def test_what_cannot_be_got_has_a_code_and_a_sentence(
    device: Device, fault: Fault, code: str
) -> None:
    with ImageServer(b"image") as server:
        server.always = fault
        with pytest.raises(DownloadError) as failed:
            device.fetch(server)
    assert failed.value.code == code
    assert "?" not in str(failed.value)
    assert str(failed.value).endswith(".")


def test_a_server_that_is_busy_is_asked_again(device: Device) -> None:
    with ImageServer(b"image") as server:
        server.script.extend([Fault(status=503), Fault(status=429, headers={"Retry-After": "0"})])
        assert device.fetch(server) == b"image"


def test_a_compressed_answer_is_not_taken_for_the_image(device: Device) -> None:
    with ImageServer(b"image") as server:
        server.always = Fault(compressed=True)
        with pytest.raises(DownloadError):
            device.fetch(server)
