"""Firmware images: a signed manifest in front of the firmware itself.

An image is one file::

    FWIMAGE1          8 bytes, what kind of file this is
    length            4 bytes, big-endian: how many bytes the manifest has
    manifest          JSON: version, size, sha256, hardware
    signature         64 bytes: Ed25519 (RFC 8032) over everything before it
    firmware          `size` bytes

The signature covers the manifest alone, and the manifest's hash covers the firmware: whoever trusts
the publisher's key can trust every byte.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fwupdate_helpers import contract
from fwupdate_helpers.contract import parse_version
from fwupdate_helpers.errors import FirmwareUpdateError, ImageRefused

MAGIC: Final = b"FWIMAGE1"
DEMO_BOARD: Final = "demo-board"
MAX_MANIFEST: Final = 64 * 1024
_SIGNATURE: Final = 64
_PIECE: Final = 1024 * 1024

Read = Callable[[int, int], bytes]
"""Reads from an image: offset and length in bytes; fewer bytes at the end."""
Behaviour = Literal["works", "failsSelfTest", "hangs"]
"""What a simulated board does when it starts the firmware."""


@dataclass(frozen=True)
class Manifest:
    """What an image says of itself.

    Attributes:
        version: A version that can be ordered, such as ``2.0.0`` (PEP 440).
        size: Bytes of firmware.
        sha256: SHA-256 of the firmware, 64 hexadecimal digits.
        hardware: The boards that can run it.
    """

    version: str
    size: int
    sha256: str
    hardware: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Return the manifest as it is signed."""
        content = {
            "version": self.version,
            "size": self.size,
            "sha256": self.sha256,
            "hardware": list(self.hardware),
        }
        return json.dumps(content, indent=1).encode()


def build_image(
    file: Path,
    *,
    version: str,
    signing_key: Ed25519PrivateKey,
    size: int = 2 * 1024 * 1024,
    hardware: tuple[str, ...] = (DEMO_BOARD,),
    firmware: Path | None = None,
    behaviour: Behaviour = "works",
) -> Manifest:
    """Write an image, and return its manifest. The same arguments give the same firmware.

    Args:
        file: Where the image goes; a file that is there is replaced.
        version: The firmware's version.
        signing_key: The publisher's private key.
        size: Bytes of firmware that are made up, when no `firmware` is given.
        hardware: The boards that can run it.
        firmware: A file with the firmware, in place of one that is made up.
        behaviour: What a simulated board does when it starts the made-up firmware. It is written
            into the firmware itself: the boards know nothing before they start it.

    Raises:
        FirmwareUpdateError: The version is none, the size is too small, or a file cannot be used.
    """
    try:
        parse_version(version)
        manifest = _describe(version, hardware, _firmware(version, size, behaviour, firmware))
        signed = MAGIC + len(manifest.to_bytes()).to_bytes(4, "big") + manifest.to_bytes()
        with file.open("wb") as stream:
            stream.write(signed + signing_key.sign(signed))
            for piece in _firmware(version, size, behaviour, firmware):
                stream.write(piece)
    except (ValueError, OSError) as error:
        raise FirmwareUpdateError(f"The image {file.name} cannot be built: {error}") from error
    return manifest


def _describe(version: str, hardware: tuple[str, ...], pieces: Iterator[bytes]) -> Manifest:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return Manifest(version, size, digest.hexdigest(), tuple(hardware))


def _firmware(
    version: str, size: int, behaviour: Behaviour, firmware: Path | None
) -> Iterator[bytes]:
    """Yield the firmware in pieces, so that a large one needs little memory."""
    if firmware is not None:
        with firmware.open("rb") as stream:
            while piece := stream.read(_PIECE):
                yield piece
        return
    program = json.dumps({"simulated": behaviour}).encode() + b"\n"
    if size < len(program):
        raise ValueError(f"made-up firmware has at least {len(program)} bytes.")
    yield program
    noise = random.Random(f"{version} {size}")  # noqa: S311 - it only fills the image
    for start in range(len(program), size, _PIECE):
        yield noise.randbytes(min(_PIECE, size - start))


# -- the device's side ----------------------------------------------------------------------------


@dataclass(frozen=True)
class VerifiedImage:
    """An image whose every byte was checked.

    Attributes:
        manifest: What the image says of itself.
        file_sha256: SHA-256 of the whole file, which a service may know as its check value.
        behaviour: What a simulated board does when it starts the firmware.
    """

    manifest: Manifest
    file_sha256: str
    behaviour: Behaviour


def verify_image(
    read: Read, size: int, *, publisher_key: Ed25519PublicKey, hardware: str
) -> VerifiedImage:
    """Check an image: its form, its signature, the board it is for, its size and its hash.

    Args:
        read: Reads from the image.
        size: Bytes of the image's file.
        publisher_key: The key that must have signed it.
        hardware: The board that is to run it.

    Raises:
        ImageRefused: With the code ``notAnImage``, ``truncated``, ``badSignature``,
            ``wrongHardware``, ``oversized`` or ``hashMismatch``.
    """
    manifest, start = _read_header(read, size, publisher_key)
    if hardware not in manifest.hardware:
        raise ImageRefused(
            contract.CODE_WRONG_HARDWARE,
            f"The image is for {', '.join(manifest.hardware)}, and this board is a {hardware}. "
            "Send the image for this board.",
        )
    if size - start != manifest.size:
        short = size - start < manifest.size
        raise ImageRefused(
            contract.CODE_TRUNCATED if short else contract.CODE_OVERSIZED,
            f"The image has {size - start} bytes of firmware, and its manifest tells of "
            f"{manifest.size}. Publish it again.",
        )
    whole, firmware = hashlib.sha256(read(0, start)), hashlib.sha256()
    for offset in range(start, size, _PIECE):
        piece = read(offset, _PIECE)
        whole.update(piece)
        firmware.update(piece)
    if firmware.hexdigest() != manifest.sha256:
        raise ImageRefused(
            contract.CODE_HASH_MISMATCH,
            "The firmware's SHA-256 is not the one in the manifest: the image was damaged on its "
            "way or in its store. Publish it again.",
        )
    return VerifiedImage(manifest, whole.hexdigest(), _behaviour(read(start, 256)))


def check_version(
    image: VerifiedImage,
    *,
    running: str,
    expected: str | None = None,
    check_value: str | None = None,
    allow_downgrade: bool = False,
) -> None:
    """Check that a verified image is the one that was asked for, and no step back.

    Args:
        image: The image.
        running: The version that runs.
        expected: The version that the service announced.
        check_value: SHA-256 of the whole file that the service announced, hexadecimal.
        allow_downgrade: Whether an older version, or the same one again, may be installed.

    Raises:
        ImageRefused: With the code ``checkValueMismatch``, ``wrongVersion``, ``alreadyInstalled``
            or ``downgrade``.
    """
    version = parse_version(image.manifest.version)
    if check_value is not None and check_value.lower() != image.file_sha256:
        raise ImageRefused(
            contract.CODE_CHECK_VALUE,
            "The image is well signed, and not the file that the service announced: its SHA-256 "
            f"is not the given {contract.CHECK_VALUE}.",
        )
    if expected is not None and parse_version(expected) != version:
        raise ImageRefused(
            contract.CODE_WRONG_VERSION,
            f"The service announced version {expected}, and the image brings {version}.",
        )
    if version == parse_version(running) and not allow_downgrade:
        raise ImageRefused(
            contract.CODE_ALREADY_INSTALLED,
            f"The image brings version {version}, which runs already. Nothing was changed.",
        )
    if version < parse_version(running) and not allow_downgrade:
        raise ImageRefused(
            contract.CODE_DOWNGRADE,
            f"The image brings version {version}, which is older than the {running} that runs. "
            f"Ask for it with {contract.ALLOW_DOWNGRADE!r} if a step back is meant.",
        )


def read_manifest(read: Read, size: int, publisher_key: Ed25519PublicKey) -> tuple[Manifest, int]:
    """Return an image's manifest, its signature checked, and where in the file the firmware begins.

    `verify_image` checks the rest.
    """
    return _read_header(read, size, publisher_key)


def _read_header(read: Read, size: int, publisher_key: Ed25519PublicKey) -> tuple[Manifest, int]:
    prefix = read(0, len(MAGIC) + 4)
    if not prefix.startswith(MAGIC[: len(prefix)]) or not prefix:
        raise ImageRefused(
            contract.CODE_NOT_AN_IMAGE,
            "The file does not begin as a firmware image does. Check where the URI leads.",
        )
    length = int.from_bytes(prefix[len(MAGIC) :], "big")
    start = len(MAGIC) + 4 + length + _SIGNATURE
    if len(prefix) == len(MAGIC) + 4 and length > MAX_MANIFEST:
        raise ImageRefused(contract.CODE_NOT_AN_IMAGE, "The image's manifest is far too long.")
    if len(prefix) < len(MAGIC) + 4 or size < start:
        raise ImageRefused(
            contract.CODE_TRUNCATED, f"The image ends after {size} bytes, within its manifest."
        )
    signed, signature = read(0, start - _SIGNATURE), read(start - _SIGNATURE, _SIGNATURE)
    try:
        publisher_key.verify(signature, signed)
    except InvalidSignature as error:
        raise ImageRefused(
            contract.CODE_BAD_SIGNATURE,
            "The image is not signed by the publisher whose key this board was given: it was "
            "signed with another key, or changed afterwards.",
        ) from error
    return _parse_manifest(signed[len(MAGIC) + 4 :]), start


def _parse_manifest(text: bytes) -> Manifest:
    try:
        content: dict[str, Any] = json.loads(text)
        manifest = Manifest(
            version=content["version"],
            size=content["size"],
            sha256=content["sha256"],
            hardware=tuple(map(str, content["hardware"])),
        )
        parse_version(manifest.version)
        if type(manifest.size) is not int or len(bytes.fromhex(manifest.sha256)) != 32:
            raise ValueError("the size is no number, or the hash none of SHA-256")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ImageRefused(
            contract.CODE_NOT_AN_IMAGE, f"The image's manifest cannot be used: {error}"
        ) from error
    return manifest


def _behaviour(beginning: bytes) -> Behaviour:
    try:
        named = json.loads(beginning.partition(b"\n")[0])["simulated"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "works"  # firmware that was not made up here
    return named if named in ("works", "failsSelfTest", "hangs") else "works"
