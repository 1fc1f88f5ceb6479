"""Updates of real images: the hub serves them, the device downloads, verifies, boots, goes back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.iot.hub import IoTHubRegistryManager
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fwupdate_helpers import contract
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.errors import UpdateRejected
from fwupdate_helpers.firmware import DownloadPolicy
from fwupdate_helpers.firmware.agent import UpdateAgent
from fwupdate_helpers.firmware.image import MAGIC
from fwupdate_helpers.service import (
    cancel_firmware_update,
    invoke_firmware_update,
    wait_for_update,
)
from fwupdate_helpers.timeline import UpdateTimeline
from tests.image_server import Fault, ImageServer
from tests.images import PUBLISHER, SIZE, Publisher
from tests.rest import wait_for
from tests.sdk import DeviceService
from tests.support import HubProcess

Json = dict[str, Any]
NewDevice = Callable[..., SimulatedDevice]


class Service(DeviceService):
    """What a service does with one device, and what the twin then tells."""

    def update(self, uri: str, **options: Any) -> Json:
        """Update, wait for the end, good or bad, and return the reported properties."""
        update = invoke_firmware_update(self.registry, self.device_id, package_uri=uri, **options)
        return self.end_of(update.update_id)


@pytest.fixture
def service(registry: IoTHubRegistryManager, device_id: str) -> Service:
    return Service(registry, device_id)


def test_an_image_is_downloaded_verified_applied_and_started_from_the_other_slot(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    image = publisher.build("2.0.0")
    check_value = hashlib.sha256(image.read_bytes()).hexdigest()
    with make(board=publisher.board()) as device:
        assert service.twin["firmware"] == {
            "currentFwVersion": "1.0.0",
            "slots": {"active": "a", "a": "1.0.0"},
        }
        twin = service.update(publisher.publish("2.0.0"), version="2.0.0", check_value=check_value)
        assert device.board is not None
        assert device.board.power_up().version == "2.0.0"

    assert twin["firmware"] == {
        "currentFwVersion": "2.0.0",
        "slots": {"active": "b", "a": "1.0.0", "b": "2.0.0"},
    }
    assert (twin["firmwareStatus"], twin["firmwareUpdate"]["outcome"]) == ("completed",) * 2
    stages = twin["firmwareUpdate"]["stages"]
    times = [stages[stage][end] for stage in contract.STAGES for end in ("startedAt", "endedAt")]
    assert times == sorted(times)
    assert twin["firmwareUpdate"]["receivedBytes"] == image.stat().st_size
    assert twin["downloadComplete"] == stages["downloading"]["endedAt"]
    assert twin["startedApplyingImage"] == stages["applying"]["startedAt"]
    assert twin["lastFirmwareUpdate"] == stages["rebooting"]["endedAt"]
    timeline = UpdateTimeline.from_twin({"properties": {"reported": twin}})
    assert [stage.name for stage in timeline.stages] == list(contract.STAGES)


def flip(where: int) -> Callable[[bytes], bytes]:
    def change(image: bytes) -> bytes:
        changed = bytearray(image)
        changed[where] ^= 1
        return bytes(changed)

    return change


def grow_manifest(image: bytes) -> bytes:
    return image[: len(MAGIC)] + (2**31).to_bytes(4, "big") + image[len(MAGIC) + 4 :]


STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

REFUSED: dict[str, tuple[str, Json, Json]] = {
    "corrupted in the firmware": ("hashMismatch", {"change": flip(-7)}, {}),
    "corrupted in the manifest": ("badSignature", {"change": flip(40)}, {}),
    "corrupted in the signature": ("badSignature", {"change": flip(len(MAGIC) + 4 + 175)}, {}),
    "truncated": ("truncated", {"change": lambda image: image[:-1]}, {}),
    "truncated in its manifest": ("truncated", {"change": lambda image: image[:30]}, {}),
    "oversized": ("oversized", {"change": lambda image: image + b"x"}, {}),
    "signed by a stranger": ("badSignature", {"signing_key": STRANGER}, {}),
    "for other hardware": ("wrongHardware", {"hardware": ("toaster", "kettle")}, {}),
    "a downgrade": ("downgrade", {"version": "0.9"}, {}),
    "the version that runs": ("alreadyInstalled", {"version": "1.0.0"}, {}),
    "no image": ("notAnImage", {"change": lambda image: b"<html>404</html>"}, {}),
    "a manifest without end": ("notAnImage", {"change": grow_manifest}, {}),
    "another version than announced": ("wrongVersion", {}, {"version": "2.0.1"}),
    "another file than announced": ("checkValueMismatch", {}, {"check_value": "0" * 64}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_image_is_refused_with_its_own_code_and_the_old_version_runs_on(
    name: str, make: NewDevice, publisher: Publisher, service: Service
) -> None:
    code, build, order = REFUSED[name]
    with make(board=publisher.board()) as device:
        twin = service.update(publisher.publish(**build), **order)
        assert twin["firmwareUpdate"]["error"]["code"] == code
        assert (twin["firmwareStatus"], twin["firmwareUpdate"]["outcome"]) == ("error", "error")
        assert twin["firmware"] == {
            "currentFwVersion": "1.0.0",
            "slots": {"active": "a", "a": "1.0.0"},
        }
        assert device.is_running
        good = service.update(publisher.publish("2.0.0"), version="2.0.0")
        assert good["firmware"]["currentFwVersion"] == "2.0.0"


def test_an_image_that_changes_again_and_again_in_mid_download_is_refused(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    images = [publisher.build(f"2.0.{n}").read_bytes() for n in range(12)]
    with ImageServer(images[0]) as server:

        def change(request: object) -> None:
            server.image = images[len(server.requests) % len(images)]

        for _ in range(20):
            server.script.append(Fault(before=change, drop_after=SIZE // 4))
        with make(
            board=publisher.board(),
            policy=DownloadPolicy(first_wait=0.01, longest_wait=0.02),
            server_verification_cert=_both(server, publisher),
        ):
            twin = service.update(server.url)
    assert twin["firmwareUpdate"]["error"]["code"] == "imageChanged"
    assert twin["firmware"]["currentFwVersion"] == "1.0.0"


def test_an_image_that_changes_once_in_mid_download_is_fetched_anew(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    first, second = (publisher.build(version).read_bytes() for version in ("2.0.0", "2.0.1"))
    with ImageServer(first) as server:
        server.script.append(Fault(drop_after=SIZE // 2))
        server.script.append(Fault(before=lambda request: setattr(server, "image", second)))
        with make(
            board=publisher.board(),
            policy=DownloadPolicy(first_wait=0.01, longest_wait=0.02),
            server_verification_cert=_both(server, publisher),
        ):
            twin = service.update(server.url)
    assert twin["firmware"]["currentFwVersion"] == "2.0.1"


def _both(server: ImageServer, publisher: Publisher) -> str:
    """Return the CAs of the hub and of another server."""
    return server.ca_pem + str(publisher.hub.device_options["server_verification_cert"])


@pytest.mark.parametrize(
    ("path", "code"),
    [("/firmware/no-such-token/image.img", "downloadRefused"), ("/", "downloadRefused")],
)
def test_an_image_that_is_not_there_ends_the_update_at_once(
    path: str, code: str, make: NewDevice, publisher: Publisher, service: Service
) -> None:
    with make(board=publisher.board()):
        twin = service.update(f"https://{publisher.hub.host_name}{path}")
    assert twin["firmwareUpdate"]["error"]["code"] == code


def test_a_server_that_the_device_does_not_trust_gets_no_further(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    with ImageServer(b"image") as server, make(board=publisher.board()):
        twin = service.update(server.url)
    assert twin["firmwareUpdate"]["error"]["code"] == "notTrusted"


def test_an_image_that_is_too_large_or_has_no_room_is_refused(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    url = publisher.publish()
    policy = DownloadPolicy(size_limit=SIZE // 2)
    with make(board=publisher.board(), policy=policy):
        assert service.update(url)["firmwareUpdate"]["error"]["code"] == "tooLarge"
    for slots in (1.6, 2.6):  # no room for the download; none for the copy of it
        board = publisher.board(capacity=round(slots * SIZE) + 70_000)
        with make(board=board) as device:
            twin = service.update(url)
            assert twin["firmwareUpdate"]["error"]["code"] == "diskFull"
            assert twin["firmware"]["currentFwVersion"] == "1.0.0"
            assert device.is_running


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1/x.img", "ftp://host/x", "file:///etc/passwd", "data:,x", "https://"]
)
def test_a_uri_that_is_not_https_is_refused_before_anything_starts(
    uri: str, make: NewDevice, publisher: Publisher, service: Service
) -> None:
    with make(board=publisher.board()):
        with pytest.raises(UpdateRejected) as refused:
            service.update(uri)
        assert (refused.value.status, refused.value.payload["error"]["code"]) == (400, "uriRefused")
        assert "firmwareUpdate" not in service.twin


def test_plain_http_is_followed_where_the_device_allows_it(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    with (
        ImageServer(publisher.build().read_bytes(), tls=False) as server,
        make(board=publisher.board(), policy=DownloadPolicy(allow_http=True)),
    ):
        assert service.update(server.url)["firmware"]["currentFwVersion"] == "2.0.0"


def test_a_device_without_a_board_takes_no_image(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    with make(), pytest.raises(UpdateRejected, match="board") as refused:
        service.update(publisher.publish())
    assert refused.value.payload["error"]["code"] == "noBoard"


@pytest.mark.parametrize(
    ("behaviour", "code"), [("failsSelfTest", "selfTestFailed"), ("hangs", "notConfirmed")]
)
def test_an_image_that_does_not_work_is_rolled_back(
    behaviour: str, code: str, make: NewDevice, publisher: Publisher, service: Service
) -> None:
    board = publisher.board(watchdog_seconds=0.1)
    with make(board=board):
        twin = service.update(publisher.publish("2.0.0", behaviour=behaviour))
        assert (twin["firmwareStatus"], twin["firmwareUpdate"]["error"]["code"]) == (
            "rolledback",
            code,
        )
        assert twin["firmware"]["currentFwVersion"] == "1.0.0"
        assert twin["firmware"]["slots"] == {"active": "a", "a": "1.0.0", "b": "2.0.0"}
    with make(board=board):  # it stands by, and still knows how the last update ended
        twin = service.twin
        assert (twin["firmwareStatus"], twin["firmwareUpdate"]["outcome"]) == (
            "standBy",
            "rolledback",
        )


def test_the_same_update_asked_for_twice_starts_once(
    make: NewDevice, publisher: Publisher, service: Service, registry: Any, device_id: str
) -> None:
    url = publisher.publish()
    board = publisher.board()
    with make(board=board, stage_seconds=0.2):
        order = {"package_uri": url, "update_id": "update-1", "version": "2.0.0"}
        payloads = [invoke_firmware_update(registry, device_id, **order).payload for _ in "ab"]
        assert payloads == [contract.RESPONSE_STARTED, contract.RESPONSE_REPEATED]
        with pytest.raises(UpdateRejected) as other:
            invoke_firmware_update(registry, device_id, **{**order, "package_uri": "test.com"})
        assert other.value.payload["error"]["code"] == "updateIdInUse"
        started = service.end_of("update-1")["firmwareUpdate"]["stages"]["waiting"]
        again = invoke_firmware_update(registry, device_id, **order)
        assert again.payload == contract.RESPONSE_REPEATED
    with make(board=board):  # also after a restart
        again = invoke_firmware_update(registry, device_id, **order)
        assert again.payload == contract.RESPONSE_REPEATED
        assert service.twin["firmwareUpdate"]["stages"]["waiting"] == started


def test_the_version_that_runs_is_not_installed_again_unless_asked_for(
    make: NewDevice, publisher: Publisher, service: Service, registry: Any, device_id: str
) -> None:
    url = publisher.publish("1.0.0")
    with make(board=publisher.board()):
        before = service.twin
        update = invoke_firmware_update(registry, device_id, package_uri=url, version="1.0.0")
        assert (update.status, update.is_up_to_date) == (200, True)
        assert service.twin == before
        twin = service.update(url, version="1.0.0", allow_downgrade=True)
        assert twin["firmware"]["slots"] == {"active": "b", "a": "1.0.0", "b": "1.0.0"}


def test_a_step_back_is_installed_when_it_is_asked_for(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    with make(board=publisher.board()):
        twin = service.update(publisher.publish("0.9"), allow_downgrade=True)
        assert twin["firmware"]["currentFwVersion"] == "0.9"


def test_a_download_is_cancelled_and_the_device_goes_on(
    make: NewDevice, publisher: Publisher, service: Service, registry: Any, device_id: str
) -> None:
    url = publisher.publish()
    policy = DownloadPolicy(bytes_per_second=50_000)
    with make(board=publisher.board(), policy=policy) as device:
        with pytest.raises(UpdateRejected) as idle:
            cancel_firmware_update(registry, device_id)
        update = invoke_firmware_update(registry, device_id, package_uri=url)
        assert device.events.wait_for("downloading", timeout=10)
        with pytest.raises(UpdateRejected) as other:
            cancel_firmware_update(registry, device_id, "another")
        answer = cancel_firmware_update(registry, device_id, update.update_id)
        assert answer == contract.RESPONSE_CANCELLED
        twin = service.end_of(update.update_id)
    assert [error.value.payload["error"]["code"] for error in (idle, other)] == [
        "noUpdate",
        "otherUpdate",
    ]
    assert twin["firmwareUpdate"]["error"]["code"] == "cancelled"
    assert twin["firmware"]["currentFwVersion"] == "1.0.0"


def test_progress_comes_at_most_twice_a_second_and_never_goes_back(
    make: NewDevice, publisher: Publisher, service: Service, registry: Any, device_id: str
) -> None:
    policy = DownloadPolicy(bytes_per_second=SIZE / 2)
    with make(board=publisher.board(), policy=policy) as device:
        update = invoke_firmware_update(registry, device_id, package_uri=publisher.publish())
        seen: list[int] = []
        wait_for_update(
            registry,
            device_id,
            update.update_id,
            interval=0.02,
            on_change=lambda twin: seen.append(
                twin.properties.reported["firmwareUpdate"].get("receivedBytes", 0)
            ),
        )
        kinds = [event.kind for event in device.events]
    between = kinds[kinds.index("downloading") + 1 : kinds.index("verifying")]
    assert seen == sorted(seen)
    assert len(set(seen)) >= 4
    assert 3 <= between.count("reported") <= 6  # one opens the stage, then two a second for 2 s


def test_a_power_cut_is_no_farewell_and_the_download_goes_on_where_it_was(
    publisher: Publisher,
    tmp_path: Path,
    shared_hub_folder: Path,
    device_id: str,
) -> None:
    from fwupdate_helpers.hub import connect_hub

    with connect_hub() as hub:
        board = publisher.board()
        publisher.hub = hub
        url = publisher.publish(size=400_000)
        service = Service(hub.registry, device_id)
        device = SimulatedDevice(
            hub.device_connection_string(device_id),
            stage_seconds=0,
            board=board,
            policy=DownloadPolicy(bytes_per_second=200_000, sync_bytes=10_000),
            **hub.device_options,
        )
        device.start()
        update = invoke_firmware_update(hub.registry, device_id, package_uri=url)
        wait_for(lambda: service.twin["firmwareUpdate"].get("receivedBytes", 0) > 0)
        device.power_cut()
        assert not device.is_running
        wait_for(lambda: hub.registry.get_twin(device_id).connection_state == "Disconnected")
        cut = service.twin["firmwareUpdate"]
        assert "error" not in cut  # nobody could say anything
        log = (shared_hub_folder / "hub.log").read_text(encoding="utf-8")
        assert f"device '{device_id}': connection ends: the client disconnected" not in log

        kept = board.flash.folder.joinpath("download.img").stat().st_size
        device.start()
        assert service.twin["firmwareUpdate"]["receivedBytes"] >= kept > 0
        twin = service.end_of(update.update_id)
        log = (shared_hub_folder / "hub.log").read_text(encoding="utf-8")
        device.stop()
        hub.delete_device(device_id)
    assert twin["firmware"]["currentFwVersion"] == "2.0.0"
    assert twin["firmwareUpdate"]["recovery"]["action"] == "resumed"
    stages = twin["firmwareUpdate"]["stages"]
    assert stages["downloading"]["startedAt"] == cut["stages"]["downloading"]["startedAt"]
    # The reboot of the update, in contrast, is an orderly one: the hub's log can tell them apart.
    assert f"device '{device_id}': connection ends: the client disconnected" in log


def test_after_a_power_cut_no_thread_and_no_socket_of_the_device_is_left(
    make: NewDevice, publisher: Publisher
) -> None:
    device = make(board=publisher.board()).start()
    before = {thread.name for thread in threading.enumerate()}
    device.power_cut()
    device.start()
    device.power_cut()
    left = {thread.name for thread in threading.enumerate()}
    assert f"device-{device.device_id}" in before
    assert f"device-{device.device_id}" not in left


def test_a_device_that_is_stopped_in_an_update_goes_on_after_its_start(
    make: NewDevice, publisher: Publisher, service: Service, registry: Any, device_id: str
) -> None:
    board, policy = publisher.board(), DownloadPolicy(bytes_per_second=100_000)
    with make(board=board, policy=policy) as device:
        update = invoke_firmware_update(registry, device_id, package_uri=publisher.publish())
        assert device.events.wait_for("downloading", timeout=10)
    assert "error" not in service.twin["firmwareUpdate"]
    with make(board=board):
        twin = service.end_of(update.update_id)
    assert twin["firmware"]["currentFwVersion"] == "2.0.0"


def test_a_method_that_comes_while_the_device_starts_waits_for_it(
    make: NewDevice, publisher: Publisher, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, start, calls = publisher.publish(), UpdateAgent.start, []

    async def slow_start(agent: UpdateAgent, *arguments: Any) -> bool:
        while not calls:  # the hub knows of the handler already
            calls.extend(device._life.desk.tasks if device._life else ())
            await asyncio.sleep(0.01)
        return await start(agent, *arguments)

    monkeypatch.setattr(UpdateAgent, "start", slow_start)
    device = make(board=publisher.board())
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(device.start)
        twin = service.update(url, connect_timeout=20)
        starting.result()
    assert twin["firmware"]["currentFwVersion"] == "2.0.0"


@pytest.mark.parametrize("where", ["uri", "update id", "version", "manifest", "encoded uri"])
def test_a_path_never_leaves_the_devices_directory(
    where: str, make: NewDevice, publisher: Publisher, service: Service, tmp_path: Path
) -> None:
    up = "../../x"
    outside = tmp_path / "around"
    chip = outside / "deep" / "chip"
    with make(board=publisher.board(folder=chip)):
        before = _files(tmp_path) - _files(chip)
        good = publisher.publish("2.0.0")
        before |= _files(tmp_path) - _files(chip)
        if where == "uri":
            service.update(f"{good.rpartition('/')[0]}/{up}")
        elif where == "encoded uri":
            service.update(f"{good}%2f..%2f..%2fx")
        elif where == "update id":
            service.update(good, update_id=up)
        elif where == "version":
            with pytest.raises(UpdateRejected):
                service.update(good, version=up)
        else:
            bad = publisher.build("2.0.0")
            bad.write_bytes(_signed({"version": up, "hardware": [up, "demo-board"]}))
            from fwupdate_helpers.firmware import publish_image

            before.add(bad)
            twin = service.update(publish_image(publisher.hub, bad))
            assert twin["firmwareUpdate"]["error"]["code"] == "notAnImage"
        assert _files(tmp_path) - _files(chip) == before
        assert {file.name for file in _files(chip)} <= {
            "boot.json",
            "update.json",
            "slot-a.img",
            "slot-b.img",
        }


def _files(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


def _signed(fields: Json) -> bytes:
    firmware = os.urandom(1000)
    digest = hashlib.sha256(firmware).hexdigest()
    manifest = json.dumps({"size": 1000, "sha256": digest, **fields}).encode()
    head = MAGIC + len(manifest).to_bytes(4, "big") + manifest
    return head + PUBLISHER.sign(head) + firmware


CHILD = """
import os, sys, threading
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.firmware import Board

string, factory, chip, ca, last = sys.stdin.readline().strip(), *sys.argv[1:]
ready, calls = threading.Event(), [0]

def on_call(operation, name):
    if ready.is_set():
        calls[0] += 1
        if calls[0] == int(last):
            os._exit(9)

key = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
board = Board(Path(factory), key, folder=Path(chip), on_call=on_call)
device = SimulatedDevice(
    string, stage_seconds=0, board=board, server_verification_cert=Path(ca).read_text()
).start()
ready.set()
print("ready", flush=True)
sys.stdin.readline()
print(calls[0], flush=True)
"""

CUTS = 20


@pytest.mark.parametrize("cut", range(CUTS))
def test_a_device_whose_process_is_killed_at_any_moment_finds_its_way(
    cut: int, make: NewDevice, publisher: Publisher, service: Service, hub_process: HubProcess
) -> None:
    """The child ends itself with ``os._exit``: no clean-up code, no flush, no farewell."""
    from tests.support import device_connection_string, run_python

    other = f"{service.device_id}-child"
    service.device_id = other
    string = device_connection_string(hub_process, other)
    board = publisher.board(folder=publisher.folder / "chip")
    url = publisher.publish("2.0.0")
    last = 2 + cut * 5  # an update makes more calls than the last of these
    arguments = [str(publisher.build("1.0.0")), str(publisher.folder / "chip")]
    child = run_python(CHILD, *arguments, hub_process.ca_file, str(last))
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(string + "\n")
    child.stdin.flush()
    try:
        assert child.stdout.readline() == "ready\n", child.stderr and child.stderr.read()
        update_id: str | None = None
        try:
            update_id = invoke_firmware_update(
                service.registry, other, package_uri=url, response_timeout=5
            ).update_id
        except Exception as error:  # it died before it could answer
            assert type(error).__name__ in ("UpdateTimeout", "DeviceOffline")
        assert child.wait(timeout=30) == 9, "the update made fewer calls than that"
    finally:
        child.kill()
        child.communicate()

    options = hub_process.device_options
    with SimulatedDevice(string, stage_seconds=0, board=board, **options) as device:
        wait_for(lambda: contract.open_stage(service.twin) is None, seconds=20)
        twin = service.twin
        version = twin["firmware"]["currentFwVersion"]
        outcome = twin.get("firmwareUpdate", {}).get("outcome")
        if update_id is None and "firmwareUpdate" not in twin:
            assert version == "1.0.0"
        elif version == "2.0.0":
            assert outcome == "completed"
        else:
            assert (version, outcome) == ("1.0.0", "rolledback")
            assert twin["firmwareUpdate"]["error"]["code"] == "notConfirmed"
        if update_id is not None:
            assert twin["firmwareUpdate"]["updateId"] == update_id
        again = service.update(url, version="2.0.0") if version == "1.0.0" else twin
        assert again["firmware"]["currentFwVersion"] == "2.0.0"
        assert device.is_running
