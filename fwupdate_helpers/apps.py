"""The two console apps of Azure's tutorial: a device in one terminal, a service in another."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.app_options import (
    DEVICE_VARIABLE,
    SERVICE_VARIABLE,
    device_options,
    service_options,
)
from fwupdate_helpers.connection_string import mask, read_device_string
from fwupdate_helpers.errors import FirmwareUpdateError, InvalidConnectionString

if TYPE_CHECKING:
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.firmware import DownloadPolicy
    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.retry_log import Retry

DEFAULT_DEVICE = "device"
_SMALLEST_SYNC = 16 * 1024
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
    return _run(_device, device_options(arguments))


def service_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fwupdate-service``; return the exit status."""
    return _run(_service, service_options(arguments))


def _run(app: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    # A shell that starts this with & has SIGINT ignored; Ctrl-C must end it all the same.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # the last: Ctrl-Break, on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
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

    string, sdk_options, hub = _device_connection(options)
    place = options.board or board_folder(read_device_host(string), read_device_string(string))
    policy = _policy(options)
    try:
        with open_board(place, options) as opened:
            device = SimulatedDevice(
                string,
                stage_seconds=options.stage_seconds,
                board=opened.board,
                policy=policy,
                **sdk_options,
            )
            _say(f"IoT Hub device, protocol MQTT, connection string {mask(string)}")
            with device:
                _follow(device, opened.progress)
            if device.error is not None:
                raise device.error
    finally:
        if hub is not None:
            hub.close()


def _policy(options: argparse.Namespace) -> DownloadPolicy:
    from fwupdate_helpers.firmware import DownloadPolicy

    limit, usual = options.bandwidth, DownloadPolicy.sync_bytes
    return DownloadPolicy(
        bytes_per_second=limit,
        allow_http=options.allow_http,
        # A slow download that is killed loses about a second of it, not all.
        sync_bytes=usual if limit is None else min(usual, max(limit, _SMALLEST_SYNC)),
    )


def _follow(device: SimulatedDevice, progress: Callable[[], str | None]) -> None:
    """Say what happens on the device until it stops; `progress` tells how far a download is."""
    of_image, percent = False, None

    def say_progress() -> None:
        nonlocal percent
        if (now := progress()) not in (None, percent):
            percent = now
            _say(str(now))

    for event in device.events.follow(until="stopped"):
        if event.kind == "starting":
            of_image, percent = False, None
        of_image |= event.kind in _IMAGE_EVENTS
        if event.kind == "verifying":
            say_progress()
        if event.kind in _DEVICE_EVENTS or (event.kind == "completed" and of_image):
            _say(event.text)
        if event.kind == "reported":
            say_progress()
        if event.kind == "ready":
            _say(f"Waiting for commands. {_CTRL_C}")


_IMAGE_EVENTS: Final = {"recovered", "verifying", "rebooting"}
_DEVICE_EVENTS: Final = {
    *("reported", "ready", "starting", "downloading", "applying", "applied", "retry", "failed"),
    *("booted", "hang", "rejected", "rolledback", "cancelled", "desired"),
    *_IMAGE_EVENTS,
}
"""The tutorial's device says nothing more after the last report, so "completed" is not here."""


def _device_connection(options: argparse.Namespace) -> tuple[str, dict[str, Any], Hub | None]:
    from fwupdate_helpers.websockets import websocket_options

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
    return given, trust | websocket_options(), None


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
            _say(json.dumps(cancel_firmware_update(hub.registry, device_id, on_retry=_say_retry)))
            return
        with _package(hub, options) as (package_uri, version):
            update = invoke_firmware_update(
                hub.registry,
                device_id,
                package_uri=package_uri,
                version=version,
                check_value=options.check_value,
                allow_downgrade=options.allow_downgrade,
                on_retry=_say_retry,
            )
            _say("Direct Method called.")
            _say(json.dumps(update.payload))
            if update.is_up_to_date:
                return
            _say(_CTRL_C)
            twins = watch_update(
                hub.registry, device_id, update_id=update.update_id, on_retry=_say_retry
            )
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

    with tempfile.TemporaryDirectory(
        prefix="fwupdate-image-", ignore_cleanup_errors=True
    ) as folder:
        image = options.image
        if image is None:
            from fwupdate_helpers.app_boards import devices_folder
            from fwupdate_helpers.firmware.keys import demo_signing_key

            image = Path(folder) / "firmware.img"
            key = demo_signing_key(devices_folder())
            size = {} if options.image_size is None else {"size": options.image_size}
            build_image(image, version=options.new_version, signing_key=key, **size)
        url = publish_image(hub, image)
    try:
        yield url, options.new_version
    except KeyboardInterrupt:
        _say("The image is withdrawn: a device that still downloads it cannot go on.")
        raise
    finally:
        unpublish_image(hub, url)


def _say_retry(retry: Retry) -> None:
    _say(str(retry))


def _tell(reports: Iterable[contract.Json]) -> contract.Json:
    """Say what changes from one report to the next; return the last one."""
    status, progress, last = None, None, {}
    for last in reports:
        lines = []
        if (now := _progress(last)) not in (None, progress):
            lines.append(progress := now)
        if last.get(contract.STATUS) != status:
            status = last.get(contract.STATUS)
            # A download that has just begun is announced first, one that has ended afterwards.
            place = 0 if status == contract.DOWNLOADING else len(lines)
            lines.insert(place, _MESSAGES.get(str(status), "Unknown status"))
        for line in lines:
            _say(str(line))
    return last


def _progress(reported: contract.Json) -> str | None:
    update = reported.get(contract.UPDATE)
    if not isinstance(update, dict) or contract.TOTAL not in update:
        return None
    share = update.get(contract.PROGRESS, 0)
    return f"Downloaded {100 * share:.0f} % of {update[contract.TOTAL]} bytes"


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
