"""The console apps with images, on the hub that they find by themselves."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fwupdate_helpers import contract
from fwupdate_helpers.app_boards import OpenBoard, board_folder, devices_folder, open_board
from fwupdate_helpers.app_options import device_options, service_options
from fwupdate_helpers.apps import _tell
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
        "Downloaded 100 % of ",
        "Verifying image.",
        "Applying image from: https://",
        "Image applied.",
        "Rebooting",
        "Version 2.0.0 has started from slot b.",
        "Firmware update completed.",
        "Stopped.",
    )
    again = apps.device()
    assert "Version 2.0.0 has started from slot b." in read_until(again, "Waiting for commands")
    status, lines, _ = apps.run("--new-version", "2.0.0", "--image-size", "500k")
    assert (status, lines[-1]) == (0, '{"Response": "Firmware already up to date"}')
    apps.end(again)
    pem = (apps.devices / KEY_FILE).read_text().splitlines()
    assert not [line for line in pem if line in apps.output], "the signing key is shown"
    assert set(re.findall(r"SharedAccessKey=(.{3})", apps.output)) == {"***"}
    assert not re.search(r"/firmware/[\w-]{16}", apps.output), "the image's address is shown whole"


def percent(line: str) -> int:
    found = re.match(r"Downloaded (\d+) % of ", line)
    return int(found[1]) if found else -1


def test_a_device_that_is_killed_in_mid_download_goes_on(apps: Apps) -> None:
    device = apps.ready("--bandwidth", "200k")
    service = apps.service("--new-version", "2.0.0", "--image-size", "700k")
    assert device.stdout is not None
    assert next(line for line in device.stdout if percent(line) >= 40)
    device.kill()
    device.communicate()
    again = apps.device()
    start = read_until(again, "Waiting for")
    assert "The update that lost its power is resumed." in start
    assert max(map(percent, start)) >= 25, "what was synced is lost"
    status, out, _ = finish(service)
    assert (status, "Firmware applied" in out, '"action": "resumed"' in out) == (0, True, True)
    assert "Firmware update completed." in read_until(again, "Firmware update completed.")


def test_an_update_is_cancelled_from_another_terminal(apps: Apps) -> None:
    apps.ready("--bandwidth", "50k")
    service = apps.service("--new-version", "2.0.0")
    read_until(service, "Downloading firmware...")
    status, lines, _ = apps.run("--cancel")
    assert (status, lines[-1]) == (0, '{"Response": "Firmware update is being cancelled"}')
    status, _, err = finish(service)
    assert (status, "cancelled" in err) == (1, True)
    status, _, err = apps.run("--cancel")
    assert (status, "noUpdate" in err) == (1, True)


def test_a_publisher_of_ones_own_and_a_stranger(apps: Apps) -> None:
    key = public_pem(apps.folder / "publisher.pem", PUBLISHER.public_key())
    factory = build(apps.folder / "factory.img", "1.5")
    device = apps.ready("--publisher-key", str(key), "--factory-image", str(factory))
    foreign = build(apps.folder / "foreign.img", "2.0.0", signing_key=Ed25519PrivateKey.generate())
    status, _, err = apps.run("--image", str(foreign))
    assert (status, "badSignature" in err) == (1, True)
    image = build(apps.folder / "new.img", "2.0.0")
    assert apps.run("--image", str(image))[0] == 0
    apps.end(device)
    assert not (apps.devices / KEY_FILE).exists(), "nobody needs the demo key"


def test_two_programs_that_start_at_once_make_one_private_key(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    program = (
        "import sys; from pathlib import Path; from fwupdate_helpers.firmware.keys import *; "
        "key = demo_signing_key(Path(sys.argv[1])); print(key.public_key().public_bytes_raw())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate(timeout=60)[0] for process in started]
    assert len(set(told)) == 1 and told[0].startswith("b")
    file = folder / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")
def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    demo_signing_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(FirmwareUpdateError, match="chmod 600"):
        demo_signing_key(tmp_path)


# -- boards, in this process ----------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder of devices."""
    monkeypatch.setenv("FWUPDATE_DEVICE_DIR", str(tmp_path / "devices"))
    return tmp_path / "devices"


def opened(folder: Path, *options: str) -> OpenBoard:
    """Return what `fwupdate-device` with these options finds in a folder."""
    with open_board(folder, device_options(options)) as found:
        found.board.power_up()
        return found


def public_pem(file: Path, key: Ed25519PublicKey) -> Path:
    file.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return file


@pytest.mark.parametrize("device_id", ["..", "../../x", "a/b", "C:\\x", ".", "a" * 128, "d%2e#"])
def test_no_device_id_leads_out_of_the_folder(home: Path, device_id: str) -> None:
    place = board_folder("h.azure-devices.net", device_id)
    assert place.parent == devices_folder() == home == place.resolve().parent
    assert re.fullmatch(r"board-[A-Za-z0-9-]+", place.name) and len(place.name) < 100
    assert place != board_folder("h.azure-devices.net", device_id + "2")


def test_a_board_runs_one_program_at_a_time(home: Path) -> None:
    with (
        open_board(home / "b", device_options([])),
        pytest.raises(FirmwareUpdateError, match="Another program runs the board"),
    ):
        opened(home / "b")
    opened(home / "b")


def test_a_board_keeps_its_hardware_and_its_key(home: Path, tmp_path: Path) -> None:
    first = opened(home / "b", "--hardware", "pump")
    (home / KEY_FILE).unlink()
    again = opened(home / "b")
    assert again.board.hardware == "pump"
    assert again.publisher_key.public_bytes_raw() == first.publisher_key.public_bytes_raw()
    with pytest.raises(FirmwareUpdateError, match=r"is a pump.*--hardware"):
        opened(home / "b", "--hardware", "fan")
    other = public_pem(tmp_path / "other.pem", PUBLISHER.public_key())
    with pytest.raises(FirmwareUpdateError, match=r"another publisher.*--factory-reset"):
        opened(home / "b", "--publisher-key", str(other))


def test_a_factory_reset_makes_a_new_board(home: Path, tmp_path: Path) -> None:
    key = demo_signing_key(home)
    factory = build(tmp_path / "3.img", "3.0.0", signing_key=key)
    assert opened(home / "b", "--factory-image", str(factory)).board.slots()["a"] == "3.0.0"
    assert opened(home / "b").board.slots()["a"] == "3.0.0"
    new = opened(home / "b", "--factory-reset", "--hardware", "fan").board
    assert (new.slots(), new.hardware) == ({"a": "1.0.0", "b": None}, "fan")


def test_a_reset_that_cannot_be_done_deletes_nothing(home: Path, tmp_path: Path) -> None:
    opened(home / "b")
    other = public_pem(tmp_path / "other.pem", PUBLISHER.public_key())
    with pytest.raises(FirmwareUpdateError, match="--factory-image"):
        opened(home / "b", "--factory-reset", "--publisher-key", str(other))
    assert opened(home / "b").board.slots()["a"] == "1.0.0"


def test_a_folder_with_other_files_is_left_alone(home: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("300 pages")
    for options in ([], ["--factory-reset"]):
        with pytest.raises(FirmwareUpdateError, match=r"no board's folder.*thesis"):
            opened(tmp_path, *options)
    with pytest.raises(FirmwareUpdateError, match="cannot be used"):
        opened(thesis)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".json"] == []
    assert thesis.read_text() == "300 pages"


# -- options and words, in this process -----------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "--cancel --new-version 2.0.0",
        "--image a.img --new-version 2.0.0",
        "--package-uri https://h/a.img --cancel",
        "--cancel --allow-downgrade",
        "--image-size 2M",
        "--new-version 2.0.0 --image-size 256M",
        "--new-version 2.0.0 --image-size -1",
        "--new-version 2.0.0 --check-value 00",
    ],
)
def test_options_that_exclude_each_other_are_refused(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        service_options(arguments.split())
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_bandwidth_is_told_in_bytes_k_or_m() -> None:
    given = [device_options(["--bandwidth", text]).bandwidth for text in ("900", "200k", "1M")]
    assert given == [900, 200 * 1024, 1024 * 1024]


def test_the_service_tells_each_percent_once_and_in_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def report(status: str, share: float) -> contract.Json:
        update = {contract.PROGRESS: share, contract.TOTAL: 1000}
        return {contract.STATUS: status, contract.UPDATE: update}

    shares = [("downloading", 0.5), ("downloading", 0.501), ("applying", 1), ("completed", 1)]
    _tell(report(*share) for share in shares)
    assert capsys.readouterr().out.splitlines() == [
        "Downloading firmware...",
        "Downloaded 50 % of 1000 bytes",
        "Downloaded 100 % of 1000 bytes",
        "Download complete, applying firmware...",
        "Firmware applied",
    ]
