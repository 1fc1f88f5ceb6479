"""The device's flash chip: the one part of an update, with the reboot, that is simulated.

A folder of this computer is the chip: what lies in it survives everything. In front of it is a
write-back cache in memory, as an operating system has one: data that was written and not synced,
and names that were changed in a directory that was not synced, are in the cache alone. When the
power fails, or the process dies, the cache is gone.
"""

from __future__ import annotations

import errno
import os
import random
import re
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from fwupdate_helpers.localhub.replacing import replace_file

MIB: Final = 1024 * 1024
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}(\.[a-z]{1,8})?")


class PowerLost(BaseException):
    """The device has no power, so its program cannot go on.

    Not an `Exception`, because no handler of the device's program may outlive its power.
    """


class _File:
    """One file: the part that is on the chip, and the part that waits in the cache."""

    def __init__(self, host: Path, synced: int = 0) -> None:
        self.host = host
        self.synced = synced
        self.cache = bytearray()

    @property
    def size(self) -> int:
        return self.synced + len(self.cache)


class Flash:
    """A flat directory of files on a flash chip, with a write-back cache in front.

    Files grow at their end only; a new content is a new file under the old name. Names are checked
    against a strict pattern, so that no name leads out of the folder.

    Args:
        folder: The chip's content, private to this user; made when it is not there.
        capacity: The chip's size in bytes.
        on_call: Called with the operation and the name before every operation that reads or
            writes: where tests cut the power.
        host_sync: Whether this computer, too, is to sync what is synced on the chip, so that the
            chip survives a loss of the computer's own power. What the simulated device loses is
            the same either way.

    Raises:
        PowerLost: Every operation, once `lose_power` was called.
        OSError: As the operating system does, for example ``ENOSPC`` when the chip is full.

    Example:
        >>> flash = Flash(Path("chip"))  # doctest: +SKIP
        >>> flash.create("boot.json")  # doctest: +SKIP
        >>> flash.append("boot.json", b"{}")  # doctest: +SKIP
        >>> flash.sync("boot.json"); flash.sync_directory()  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: Path,
        *,
        capacity: int = 1024 * MIB,
        on_call: Callable[[str, str], None] = lambda operation, name: None,
        host_sync: bool = True,
    ) -> None:
        self.folder = folder
        self.capacity = capacity
        self._host_sync = host_sync
        self._on_call = on_call
        self._lock = threading.RLock()
        self._has_power = True
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._names = {
            file.name: _File(file, file.stat().st_size)
            for file in folder.iterdir()
            if _NAME.fullmatch(file.name)
        }
        self._synced_names = dict(self._names)

    # -- files ------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file."""
        with self._lock:
            self._begin("exists", name)
            return name in self._names

    def size(self, name: str) -> int:
        """Return a file's size in bytes; 0 when there is no such file."""
        with self._lock:
            self._begin("size", name)
            return self._names[name].size if name in self._names else 0

    def read(self, name: str, offset: int = 0, length: int = MIB) -> bytes:
        """Return up to `length` bytes from `offset`; empty at the end, or without such a file."""
        with self._lock:
            self._begin("read", name)
            file = self._names.get(name)
            if file is None:
                return b""
            start, end = offset, min(offset + length, file.size)
            data = b""
            if start < file.synced:
                with file.host.open("rb") as stream:
                    stream.seek(start)
                    data = stream.read(min(end, file.synced) - start)
            if end > file.synced:
                data += file.cache[max(start - file.synced, 0) : end - file.synced]
            return data

    def create(self, name: str) -> None:
        """Put a new, empty file under `name`, in place of the one that was there."""
        with self._lock:
            self._begin("create", name)
            self._names[name] = _File(self.folder / f".new-{secrets.token_hex(8)}")

    def append(self, name: str, data: bytes) -> None:
        """Write at the end of a file.

        Raises:
            OSError: ``ENOSPC``, the chip is full; ``ENOENT``, there is no such file.
        """
        with self._lock:
            self._begin("append", name)
            if name not in self._names:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            if len(data) > self.free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            self._names[name].cache += data

    def sync(self, name: str) -> None:
        """Bring a file's content onto the chip (``fsync``). Its name may not be there yet."""
        with self._lock:
            self._begin("sync", name)
            self._write_back(self._names[name])

    # -- names ------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of the file that had it."""
        with self._lock:
            self._begin("rename", new)
            self._names[new] = self._names.pop(old)

    def remove(self, name: str) -> None:
        """Remove a file; harmless when there is none."""
        with self._lock:
            self._begin("remove", name)
            self._names.pop(name, None)

    def sync_directory(self) -> None:
        """Bring all names onto the chip (``fsync`` of the directory), each in one step."""
        with self._lock:
            self._begin("sync_directory", "")
            for name in sorted(self._names.keys() | self._synced_names.keys()):
                self._sync_name(name)
            if self._host_sync:
                _sync_host_folder(self.folder)

    def drop_orphans(self) -> None:
        """Remove synced content that never got a synced name; only for the chip's one user."""
        for orphan in self.folder.glob(".new-*"):
            orphan.unlink(missing_ok=True)

    # -- the chip itself --------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Bytes that are left."""
        with self._lock:
            files = {*self._names.values(), *self._synced_names.values()}
            return self.capacity - sum(file.size for file in files)

    def lose_power(self, survivors: random.Random | None = None) -> None:
        """Cut the power, from any thread: what was not synced is gone, and nothing works any more.

        Args:
            survivors: Chooses parts of the cache that reach the chip all the same, as they may on
                a real one: any files' first bytes, and any names. Without it nothing does.
        """
        with self._lock:
            if survivors is not None and self._has_power:
                for file in self._names.values():
                    file.cache = file.cache[: survivors.randint(0, len(file.cache))]
                    self._write_back(file)
                for name in sorted(self._names.keys() | self._synced_names.keys()):
                    if survivors.random() < 0.5:
                        self._sync_name(name)
            self._has_power = False

    # -- inside -----------------------------------------------------------------------------------

    def _begin(self, operation: str, name: str) -> None:
        if name and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a file on the flash chip.")
        if self._has_power:
            self._on_call(operation, name)
        if not self._has_power:
            raise PowerLost

    def _write_back(self, file: _File) -> None:
        if not file.cache and file.host.exists():
            return
        try:
            with os.fdopen(os.open(file.host, _APPEND, 0o600), "ab") as stream:
                stream.write(file.cache)
                stream.flush()
                if self._host_sync:
                    os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):  # not even a part, or the next sync would write it twice
                os.truncate(file.host, file.synced)
            raise
        file.synced += len(file.cache)
        file.cache.clear()

    def _sync_name(self, name: str) -> None:
        file, before = self._names.get(name), self._synced_names.get(name)
        if file is before:
            return
        place = self.folder / name
        if before is not None and before.host == place and before in self._names.values():
            before.host = place.with_name(f".new-{secrets.token_hex(8)}")
            replace_file(place, before.host)  # it goes on under another name
        if file is None:
            place.unlink(missing_ok=True)
            del self._synced_names[name]
            return
        if not file.host.exists() and not file.synced:  # the name leads to an empty file
            file.host.touch(mode=0o600)
        replace_file(file.host, place)
        file.host = place
        self._synced_names[name] = file


def _sync_host_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows has no such call, and needs none
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_in_one_step(flash: Flash, name: str, content: bytes) -> None:
    """Replace a file so that a power cut leaves the old content or the new one, never a mixture."""
    temporary = f"{name.partition('.')[0]}.new"
    flash.create(temporary)
    flash.append(temporary, content)
    flash.sync(temporary)
    flash.rename(temporary, name)
    flash.sync_directory()
