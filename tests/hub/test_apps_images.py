"""The console apps with images, on the hub that they find by themselves."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.firmware.keys import KEY_FILE, demo_signing_key
from tests.hub.test_apps import app, finish, in_order, read_until
from tests.images import PUBLISHER, build


class Apps:
    """Both apps with one device id and one folder of devices."""

    def __init__(self, device_id: str, folder: Path) -> None:
        self.folder, self._device_id = folder, device_id
        self.devices = folder / "devices"
        self.output = ""
        self._running: list[subprocess.Popen[str]] = []

    def _start(self, name: str, *options: str) -> subprocess.Popen[str]:
        options = ("--device-id", self._device_id, *options)
        process = app(name, *options, FWUPDATE_DEVICE_DIR=str(self.devices))
        self._running.append(process)
        return process

    def device(self, *options: str) -> subprocess.Popen[str]:
        return self._start("fwupdate-device", "--stage-seconds", "0", *options)

    def service(self, *options: str) -> subprocess.Popen[str]:
        return self._start("fwupdate-service", *options)

    def ready(self, *options: str) -> subprocess.Popen[str]:
        process = self.device(*options)
        self.output += "\n".join(read_until(process, "Waiting for commands"))
        return process

    def run(self, *options: str) -> tuple[int, list[str], str]:
        status, out, err = finish(self.service(*options))
        self.output += out + err
        return status, out.splitlines(), err

    def end(self, process: subprocess.Popen[str]) -> list[str]:
        process.terminate()
        out, err = process.communicate(timeout=20)
        self.output += out + err
        return out.splitlines()

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def apps(device_id: str, tmp_path: Path) -> Iterator[Apps]:
    both = Apps(device_id, tmp_path)
    yield both
    both.close()


def test_an_update_changes_the_device_for_good(apps: Apps) -> None:
    device = apps.ready()
    status, lines, _ = apps.run("--new-version", "2.0.0", "--image-size", "500k")
    assert status == 0
    assert in_order(
        lines,
        "IoT Hub service",
        "Direct Method called.",
        '{"Response": "Firmware update started"}',
        "Firmware applied",
        "{",
    )
    assert any(line.startswith("Downloaded 100 % of ") for line in lines)
    told = apps.end(device)
    assert in_order(
        told,
        "Starting firmware update.",
        "Downloading image from: https://",
        "Verifying image.",
        "Applying image from: https://",
        "Image applied.",
        "Rebooting",
        "Version 2.0.0 has started from slot b.",
    )
    again = apps.device()
    assert "Version 2.0.0 has started from slot b." in read_until(again, "Waiting for commands")
    status, lines, _ = apps.run("--new-version", "2.0.0", "--image-size", "500k")
    assert (status, lines[-1]) == (0, '{"Response": "Firmware already up to date"}')
    apps.end(again)
    assert "PRIVATE" not in apps.output
    assert not re.search(r"/firmware/[\w-]{16}", apps.output), "the image's address is shown whole"


def test_a_device_that_is_killed_in_mid_download_goes_on(apps: Apps) -> None:
    device = apps.ready("--bandwidth", "200k")
    service = apps.service("--new-version", "2.0.0", "--image-size", "700k")
    read_until(service, "Downloaded ")
    device.kill()
    device.communicate()
    again = apps.device()
    assert "The update that lost its power is resumed." in read_until(again, "Waiting for")
    status, out, _ = finish(service)
    assert (status, "Firmware applied" in out) == (0, True)


def test_an_update_is_cancelled_from_another_terminal(apps: Apps) -> None:
    apps.ready("--bandwidth", "50k")
    service = apps.service("--new-version", "2.0.0")
    read_until(service, "Downloading firmware...")
    status, lines, _ = apps.run("--cancel")
    assert (status, lines[-1]) == (0, '{"Response": "Firmware update is being cancelled"}')
    status, _, err = finish(service)
    assert (status, "cancelled" in err) == (1, True)


def test_an_image_of_a_stranger_is_refused_and_the_app_says_so(apps: Apps) -> None:
    apps.ready()
    image = build(apps.folder / "foreign.img", "2.0.0")
    status, _, err = apps.run("--image", str(image))
    assert (status, "badSignature" in err) == (1, True)


def test_a_publisher_of_ones_own(apps: Apps) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = apps.folder / "publisher.pem"
    public = PUBLISHER.public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    mine = ["--publisher-key", str(key)]
    status, _, err = finish(apps.device(*mine))
    assert (status, "--factory-image" in err) == (1, True)
    factory = build(apps.folder / "factory.img", "1.5")
    device = apps.ready(*mine, "--factory-image", str(factory))
    image = build(apps.folder / "new.img", "2.0.0")
    assert apps.run("--image", str(image))[0] == 0
    apps.end(device)


def test_a_board_runs_one_program_at_a_time(apps: Apps) -> None:
    apps.ready()
    status, _, err = finish(apps.device())
    assert (status, "Another program runs the board" in err) == (1, True)


def test_two_programs_that_start_at_once_make_one_private_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(demo_signing_key, [tmp_path / "keys"] * 8))
    assert len({key.public_key().public_bytes_raw() for key in keys}) == 1
    file = tmp_path / "keys" / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    with pytest.raises(FirmwareUpdateError, match="chmod 600"):
        demo_signing_key(tmp_path / "keys")
