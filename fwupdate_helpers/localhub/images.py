"""Published firmware images, kept on disk: the bytes, no HTTP.

An image's address holds a token that nobody can guess: who has it may read the image, as with a
shared access signature of Azure's blob storage. A new version of an image is a new file, never
the old one written over: who is reading the old one goes on with it, on Windows, too. Its ETag
comes from its content, so it is good for resuming a download after a restart of the hub.

Files:
    images/<token>/<number>.<etag>.<name>   the version with the highest number counts
    images/.upload-<random>                 not complete yet
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from fwupdate_helpers.localhub.errors import (
    ARGUMENT_INVALID,
    MESSAGE_TOO_LARGE,
    ROUTE_NOT_FOUND,
    SERVER_ERROR,
    HubError,
)
from fwupdate_helpers.localhub.replacing import replace_file

QUOTA: Final = 2 * 1024**3
"""Bytes that all published images may have together."""
MAX_AGE: Final = timedelta(days=7)
"""Images that are older are deleted when the hub starts."""

_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9._+-]{1,128}(?<!\.)")
_VERSION_FILE: Final = re.compile(r"([0-9]{1,9})\.([0-9a-f]{32})\.(.+)")
_TOKEN_BYTES: Final = 16
_UPLOAD: Final = ".upload-"

T = TypeVar("T")


@dataclass(frozen=True)
class Image:
    """One version of a published image.

    Attributes:
        etag: 32 hexadecimal digits of the content's SHA-256, without quotation marks.
        size: In bytes.
        number: Counts the versions under one token.
    """

    token: str = field(repr=False)
    name: str
    etag: str
    size: int
    number: int
    file: Path = field(repr=False)

    @property
    def path(self) -> str:
        """Where the hub serves it."""
        return f"/firmware/{self.token}/{self.name}"


def is_image_name(name: str) -> bool:
    """Tell whether an image may be published under a name.

    >>> is_image_name("edge-2.0.0+b7.fw"), is_image_name("../hub.db"), is_image_name(".env")
    (True, False, False)
    """
    return bool(_NAME.fullmatch(name))


class ImageStore:
    """The published images of one hub, whose event loop calls it.

    What takes the disk long happens in a thread of its own, one thing after the other.

    Args:
        folder: Where the images are; nobody else may write there.
        clock: Tells which images are too old.
        quota: Bytes that all images may have together.
    """

    def __init__(
        self, folder: Path, clock: Callable[[], datetime], *, quota: int | None = None
    ) -> None:
        self._folder = folder
        self._quota = QUOTA if quota is None else quota
        self._arriving = 0
        self._changing = asyncio.Lock()
        self._open_elsewhere: list[Path] = []
        self._writer = ThreadPoolExecutor(1, "localhub-images")
        folder.mkdir(mode=0o700, exist_ok=True)
        self._images = _load(folder, oldest=clock() - MAX_AGE)

    async def publish(self, name: str, content: AsyncIterator[bytes]) -> Image:
        """Keep an image under a token of its own.

        Args:
            content: Its bytes, in pieces of any size.

        Raises:
            HubError: 400 for a bad name or no content, 413 when the images are too large
                together, 500 when the disk does not take it.
        """
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        _check_name(name)
        async with self._arrived(content) as upload:
            return await self._add(token, name, 1, upload)

    async def replace(self, token: str, name: str, content: AsyncIterator[bytes]) -> Image:
        """Replace an image in one step, as overwriting a blob does.

        Raises:
            HubError: 404 when there is no such image; else as for `publish`.
        """
        _check_name(name)
        self._find(token, name)
        async with self._arrived(content) as upload, self._changing:
            before = self._find(token, name)
            image = await self._add(token, name, before.number + 1, upload)
            await self._run(self._delete_file, before.file)
            return image

    def names_one(self, text: str) -> bool:
        """Tell whether a text holds the token of an image, which is all that reading it needs."""
        return any(token in text for token in self._images)

    async def delete(self, token: str, name: str) -> None:
        """Delete an image; harmless when there is none."""
        async with self._changing:
            with suppress(HubError):
                image = self._find(token, name)
                del self._images[token]
                await self._run(self._delete_file, image.file)

    @contextmanager
    def reading(self, token: str, name: str) -> Iterator[tuple[Image, BinaryIO]]:
        """Open the current version of an image.

        Raises:
            HubError: 404 when there is none; it does not tell whether the token is right.
        """
        # No await between the two: otherwise the file could be replaced and deleted meanwhile.
        image = self._find(token, name)
        try:
            stream = image.file.open("rb")
        except OSError:
            raise _no_such_image() from None
        try:
            yield image, stream
        finally:
            stream.close()
            self._delete_left_over()

    def close(self) -> None:
        """Finish what is being written."""
        self._writer.shutdown()
        self._delete_left_over()

    def _find(self, token: str, name: str) -> Image:
        image = self._images.get(token)
        if image is None or image.name != name:
            raise _no_such_image()
        return image

    @asynccontextmanager
    async def _arrived(self, content: AsyncIterator[bytes]) -> AsyncIterator[_Upload]:
        upload = await self._run(_Upload, self._folder)
        try:
            async for piece in content:
                self.check_room(len(piece))
                self._arriving += len(piece)
                upload.size += len(piece)
                await self._run(upload.write, piece)
            if not upload.size:
                raise HubError(ARGUMENT_INVALID, "The image is empty.")
            await self._run(upload.finish)
            yield upload
        finally:
            self._arriving -= upload.size
            await self._run(upload.discard)

    def check_room(self, size: int) -> None:
        """Check that so many more bytes may come.

        Raises:
            HubError: 413 when they may not.
        """
        kept = sum(image.size for image in self._images.values())
        if kept + self._arriving + size > self._quota:
            raise HubError(
                MESSAGE_TOO_LARGE,
                f"All published images together may have {self._quota} bytes, and {kept} are taken "
                "already. Unpublish images that no device needs any more, or publish a smaller "
                f"one; images older than {MAX_AGE.days} days go when the hub starts again.",
            )

    async def _add(self, token: str, name: str, number: int, upload: _Upload) -> Image:
        file = self._folder / token / f"{number}.{upload.etag}.{name}"
        await self._run(upload.keep_as, file)
        self._images[token] = Image(token, name, upload.etag, upload.size, number, file)
        return self._images[token]

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writer, function, *arguments)
        except OSError as error:
            problem = error.strerror or type(error).__name__
        # Raised here, because the error's text holds the file's path, and so the token.
        raise HubError(
            SERVER_ERROR,
            f"The local hub cannot write in {self._folder}: {problem}. Make room there, or see to "
            "it that it can be written.",
        )

    def _delete_file(self, file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError:  # Windows deletes no file that somebody reads
            self._open_elsewhere.append(file)
            return
        with suppress(OSError):  # another version is in it
            file.parent.rmdir()

    def _delete_left_over(self) -> None:
        files, self._open_elsewhere = self._open_elsewhere, []
        for file in files:
            self._delete_file(file)


class _Upload:
    """A file that nobody sees before it is complete; all methods may block."""

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self.etag = ""
        self._file = folder / f"{_UPLOAD}{secrets.token_hex(8)}"
        self._stream = self._file.open("xb")
        self._hash = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._stream.write(piece)

    def finish(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self.etag = self._hash.hexdigest()[:32]

    def keep_as(self, file: Path) -> None:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(self._file, file)

    def discard(self) -> None:
        """Delete it; harmless after `keep_as`."""
        with suppress(OSError):  # what a full disk did not take
            self._stream.close()
        self._file.unlink(missing_ok=True)


def _load(folder: Path, *, oldest: datetime) -> dict[str, Image]:
    """Read what is there, and delete what is old, replaced or incomplete."""
    images: dict[str, Image] = {}
    for entry in folder.iterdir():
        versions = [image for file in entry.glob("*") if (image := _read(file))]
        newest = max(versions, key=lambda image: image.number, default=None)
        if newest is None or newest.file.stat().st_mtime < oldest.timestamp():
            _delete(entry)
            continue
        images[newest.token] = newest
        for other in set(entry.iterdir()) - {newest.file}:
            _delete(other)
    return images


def _read(file: Path) -> Image | None:
    match = _VERSION_FILE.fullmatch(file.name)
    if not match or not is_image_name(match[3]) or not file.is_file():
        return None
    size = file.stat().st_size
    return Image(file.parent.name, match[3], match[2], size, int(match[1]), file)


def _delete(entry: Path) -> None:
    with suppress(OSError):
        entry.unlink() if entry.is_file() else shutil.rmtree(entry)


def _check_name(name: str) -> None:
    if not is_image_name(name):
        raise HubError(
            ARGUMENT_INVALID,
            "The name of an image has 1 to 128 ASCII letters, digits and . _ + - and begins and "
            "ends with no dot.",
        )


def _no_such_image() -> HubError:
    return HubError(
        ROUTE_NOT_FOUND,
        "There is no such image: it was unpublished or has never been published. Publish it, and "
        "use the new address.",
    )
