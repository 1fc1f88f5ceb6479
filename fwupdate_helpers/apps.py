"""The two console apps of Azure's tutorial: a device in one terminal, a service in another."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwupdate_helpers import contract
from fwupdate_helpers.connection_string import mask, read_device_string
from fwupdate_helpers.errors import FirmwareUpdateError, InvalidConnectionString

if TYPE_CHECKING:
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.hub import Hub

DEVICE_VARIABLE = "IOTHUB_DEVICE_CONNECTION_STRING"
SERVICE_VARIABLE = "IOTHUB_CONNECTION_STRING"
DEFAULT_DEVICE = "device"
_CTRL_C = "IoT Hub firmware update: press Ctrl-C to exit"

_MESSAGES = {
    contract.STAND_BY: "Waiting on device...",
    contract.DOWNLOADING: "Downloading firmware...",
    contract.APPLYING: "Download complete, applying firmware...",
    contract.COMPLETED: "Firmware applied",
    contract.ERROR: "Firmware update failed",
    contract.ROLLED_BACK: "Firmware update rolled back",
}


def device_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fwupdate-device``; return the exit status."""
    return _run(_device, _device_parser().parse_args(arguments))


def service_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fwupdate-service``; return the exit status."""
    return _run(_service, _service_parser().parse_args(arguments))


def _device_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "fwupdate-device",
        "A simulated device that waits for the direct method firmwareUpdate and walks the update.",
        DEVICE_VARIABLE,
    )
    parser.add_argument(
        "--stage-seconds",
        type=_seconds,
        default=5.0,
        metavar="N",
        help="how long each stage takes (default: 5; Azure's tutorial takes 15)",
    )
    parser.add_argument(
        "--bandwidth",
        type=_size,
        metavar="N",
        help="limit of an image's download in bytes a second, such as 200k or 1M",
    )
    parser.add_argument(
        "--board", type=Path, metavar="DIR", help="its flash chip (default: a folder of its own)"
    )
    parser.add_argument("--hardware", metavar="NAME", help="what kind of board it is")
    parser.add_argument(
        "--publisher-key",
        type=Path,
        metavar="PEM",
        help="the public key that must have signed images (default: that of your own demo key)",
    )
    parser.add_argument(
        "--factory-image",
        type=Path,
        metavar="FILE",
        help="what a new board leaves the factory with",
    )
    parser.add_argument("--allow-http", action="store_true", help="download over plain HTTP, too")
    return parser


def _service_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "fwupdate-service",
        "Invokes the direct method firmwareUpdate on a device and watches its twin to the end.",
        SERVICE_VARIABLE,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--package-uri",
        default="test.com",
        metavar="URI",
        help="where the device gets the image (default: test.com, a simulated transfer)",
    )
    what.add_argument(
        "--new-version",
        metavar="VERSION",
        help="build an image of this version, sign it with your demo key, publish it, update to it",
    )
    what.add_argument("--image", type=Path, metavar="FILE", help="publish this image, update to it")
    what.add_argument("--cancel", action="store_true", help="cancel the update that runs, and end")
    parser.add_argument(
        "--image-size",
        type=_size,
        default=2 * 1024 * 1024,
        metavar="N",
        help="bytes of firmware for --new-version, such as 500k or 2M (default: 2M)",
    )
    parser.add_argument("--check-value", metavar="SHA256", help="SHA-256 of the image's file")
    parser.add_argument(
        "--allow-downgrade",
        action="store_true",
        help="install an older version, too, or the one that runs",
    )
    return parser


def _parser(name: str, description: str, variable: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog="Without a connection string the hub is the one that the notebooks use: the local "
        "hub, or the IoT Hub in FWUPDATE_IOTHUB_CONNECTION_STRING. Ctrl-C ends the app.",
    )
    parser.add_argument(
        "--connection-string-file",
        metavar="FILE",
        help=f"a file with the connection string; - is standard input (else ${variable})",
    )
    parser.add_argument("--ca-file", type=Path, metavar="PEM", help="the CA of the hub to trust")
    parser.add_argument("--device-id", metavar="ID", help="the device (default: one of your own)")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 86_400:
        raise argparse.ArgumentTypeError("seconds from 0 to a day")
    return value


def _size(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,11})([kM]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError("a number of bytes, such as 500000, 500k or 2M")
    return int(match[1]) * {"": 1, "k": 1024, "M": 1024 * 1024}[match[2]]


def _run(app: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    # A shell that starts this with & has SIGINT ignored; Ctrl-C must end it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(options)
    except KeyboardInterrupt:
        _say("Stopped.")
    except FirmwareUpdateError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    # The other terminal's reader, and a pipe, must see each line when it is written.
    print(text, flush=True)


def _given_string(options: argparse.Namespace, variable: str) -> str | None:
    source = options.connection_string_file
    if source == "-":
        return sys.stdin.readline().strip()
    if source is None:
        return os.environ.get(variable, "").strip() or None
    try:
        return Path(source).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConnectionString(
            "file", f"The connection string file {source} cannot be read: {error}."
        ) from error


# -- the device -------------------------------------------------------------------------------


def _device(options: argparse.Namespace) -> None:
    from fwupdate_helpers.app_boards import board_folder, open_board
    from fwupdate_helpers.connection_string import read_device_host
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.firmware import DownloadPolicy

    string, device_options, hub = _device_connection(options)
    place = options.board or board_folder(read_device_host(string), read_device_string(string))
    policy = DownloadPolicy(bytes_per_second=options.bandwidth, allow_http=options.allow_http)
    try:
        with open_board(place, options) as board:
            device = SimulatedDevice(
                string,
                stage_seconds=options.stage_seconds,
                board=board,
                policy=policy,
                **device_options,
            )
            _say(f"IoT Hub device, protocol MQTT, connection string {mask(string)}")
            with device:
                _follow(device)
            if device.error is not None:
                raise device.error
    finally:
        if hub is not None:
            hub.close()


def _follow(device: SimulatedDevice) -> None:
    for event in device.events.follow(until="stopped"):
        if event.kind in _DEVICE_EVENTS:
            _say(event.text)
        if event.kind == "ready":
            _say(f"Waiting for commands. {_CTRL_C}")


_DEVICE_EVENTS = {
    *("reported", "ready", "starting", "downloading", "applying", "applied", "retry", "failed"),
    *("booted", "verifying", "rebooting", "hang", "recovered", "rolledback", "cancelled"),
}


def _device_connection(options: argparse.Namespace) -> tuple[str, dict[str, Any], Hub | None]:
    given = _given_string(options, DEVICE_VARIABLE)
    if given is None:
        hub = _connect_hub(options)
        device_id = options.device_id or hub.device_id(DEFAULT_DEVICE)
        return hub.device_connection_string(device_id), hub.device_options, hub
    if options.device_id not in (None, read_device_string(given)):
        raise InvalidConnectionString(
            "DeviceId",
            "--device-id is not the device of the connection string. Leave the option out.",
        )
    trust = {"server_verification_cert": _read_ca(options.ca_file)} if options.ca_file else {}
    return given, trust, None


def _read_ca(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise FirmwareUpdateError(f"The CA file {file} cannot be read: {error}.") from error


# -- the service ------------------------------------------------------------------------------


def _service(options: argparse.Namespace) -> None:
    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.service import (
        cancel_firmware_update,
        invoke_firmware_update,
        watch_update,
    )

    given = _given_string(options, SERVICE_VARIABLE)
    if given is None:
        hub = _connect_hub(options)
    else:
        if options.ca_file:
            _read_ca(options.ca_file)
        hub = Hub(kind="azure", connection_string=given, ca_file=options.ca_file)
    with closing(hub):
        device_id = options.device_id or hub.device_id(DEFAULT_DEVICE)
        _say(f"IoT Hub service, connection string {hub.masked_connection_string}")
        _say(f"Device: {device_id}")
        if options.cancel:
            _say(json.dumps(cancel_firmware_update(hub.registry, device_id)))
            return
        with _package(hub, options) as (package_uri, version):
            update = invoke_firmware_update(
                hub.registry,
                device_id,
                package_uri=package_uri,
                version=version,
                check_value=options.check_value,
                allow_downgrade=options.allow_downgrade,
            )
            _say("Direct Method called.")
            _say(json.dumps(update.payload))
            if update.is_up_to_date:
                return
            _say(_CTRL_C)
            twins = watch_update(hub.registry, device_id, update_id=update.update_id)
            reported = _tell(twin.properties.reported for twin in twins)
        _say(json.dumps(reported, indent=2))
    _raise_failure(device_id, reported)


@contextmanager
def _package(hub: Hub, options: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """Yield where the device gets the image, and its version where it is known."""
    if options.image is None and options.new_version is None:
        yield options.package_uri, None
        return
    from fwupdate_helpers.firmware import build_image, publish_image, unpublish_image

    with tempfile.TemporaryDirectory(prefix="fwupdate-image-") as folder:
        image = options.image
        if image is None:
            from fwupdate_helpers.app_boards import devices_folder
            from fwupdate_helpers.firmware.keys import demo_signing_key

            image = Path(folder) / "firmware.img"
            key = demo_signing_key(devices_folder())
            size = options.image_size
            build_image(image, version=options.new_version, signing_key=key, size=size)
        url = publish_image(hub, image)
    try:
        yield url, options.new_version
    finally:
        unpublish_image(hub, url)


def _tell(reports: Iterable[contract.Json]) -> contract.Json:
    """Say what changes from one report to the next; return the last one."""
    status, percent, last = None, None, {}
    for last in reports:
        update = last.get(contract.UPDATE) or {}
        now = round(100 * update.get(contract.PROGRESS, 0))
        if contract.TOTAL in update and now != percent:
            percent = now
            _say(f"Downloaded {now} % of {update[contract.TOTAL]} bytes")
        if last.get(contract.STATUS) != status:
            status = last.get(contract.STATUS)
            _say(_MESSAGES.get(str(status), "Unknown status"))
    return last


def _raise_failure(device_id: str, reported: contract.Json) -> None:
    from fwupdate_helpers.service import update_failure

    failure = update_failure(device_id, reported)
    if failure is not None:
        raise failure


def _connect_hub(options: argparse.Namespace) -> Hub:
    from fwupdate_helpers.hub import connect_hub

    if options.ca_file:
        raise FirmwareUpdateError("--ca-file goes with a connection string; give one, or neither.")
    return connect_hub()
