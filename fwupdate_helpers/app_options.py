"""The command lines of the two console apps."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

DEVICE_VARIABLE: Final = "IOTHUB_DEVICE_CONNECTION_STRING"
SERVICE_VARIABLE: Final = "IOTHUB_CONNECTION_STRING"
_MIB: Final = 1024 * 1024
_LARGEST: Final = 255 * _MIB
"""A device takes 256 MiB at most, and the manifest comes on top."""


def device_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of ``fwupdate-device``; exits with status 2 when it is not usable."""
    return _device_parser().parse_args(arguments)


def service_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of ``fwupdate-service``; exits with status 2 when it is not usable."""
    parser = _service_parser()
    options = parser.parse_args(arguments)
    if options.image_size is not None and options.new_version is None:
        parser.error("--image-size goes with --new-version")
    if options.cancel and (options.check_value or options.allow_downgrade):
        parser.error("--cancel starts no update: leave --check-value and --allow-downgrade out")
    if options.new_version and options.check_value:
        parser.error("--new-version builds the image: leave --check-value out")
    return options


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
    parser.add_argument("--hardware", metavar="NAME", help="what kind of board a new one is")
    parser.add_argument(
        "--publisher-key",
        type=Path,
        metavar="PEM",
        help="the public key that must have signed a new board's images (default: that of your "
        "own demo key)",
    )
    parser.add_argument(
        "--factory-image",
        type=Path,
        metavar="FILE",
        help="what a new board leaves the factory with",
    )
    parser.add_argument(
        "--factory-reset",
        action="store_true",
        help="begin with a new board, made as the other options say; the old one is deleted",
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
        type=_image_size,
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


def _image_size(text: str) -> int:
    size = _size(text)
    if size > _LARGEST:
        raise argparse.ArgumentTypeError("at most 255M, because devices take no larger image")
    return size
