"""The two console apps of Azure's tutorial: a device in one terminal, a service in another."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwupdate_helpers import contract
from fwupdate_helpers.connection_string import mask, read_device_string
from fwupdate_helpers.errors import FirmwareUpdateError, InvalidConnectionString

if TYPE_CHECKING:
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
    return parser


def _service_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "fwupdate-service",
        "Invokes the direct method firmwareUpdate on a device and watches its twin to the end.",
        SERVICE_VARIABLE,
    )
    parser.add_argument(
        "--package-uri",
        default="test.com",
        metavar="URI",
        help="where the device gets the image (default: test.com, a simulated transfer)",
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
    from fwupdate_helpers.device import SimulatedDevice

    string, device_options, hub = _device_connection(options)
    try:
        device = SimulatedDevice(string, stage_seconds=options.stage_seconds, **device_options)
        _say(f"IoT Hub device, protocol MQTT, connection string {mask(string)}")
        with device:
            for event in device.events.follow(until="stopped"):
                if event.kind in _DEVICE_EVENTS:
                    _say(event.text)
                if event.kind == "ready":
                    _say(f"Waiting for commands. {_CTRL_C}")
        if device.error is not None:
            raise device.error
    finally:
        if hub is not None:
            hub.close()


_DEVICE_EVENTS = {"reported", "ready", "starting", "downloading", "applying", "applied", "retry"}


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
    from fwupdate_helpers.service import invoke_firmware_update, watch_update

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
        update = invoke_firmware_update(hub.registry, device_id, package_uri=options.package_uri)
        _say("Direct Method called.")
        _say(json.dumps(update.payload))
        _say(_CTRL_C)
        status, reported = None, {}
        for twin in watch_update(hub.registry, device_id, update_id=update.update_id):
            reported = twin.properties.reported
            if reported.get(contract.STATUS) != status:
                status = reported.get(contract.STATUS)
                _say(_MESSAGES.get(str(status), "Unknown status"))
        _say(json.dumps(reported, indent=2))
    _raise_failure(device_id, reported)


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
