"""What the tests of downloads share: a sink in memory, a clock that waits for nothing, checks."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import random
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware.download import DownloadPolicy, download, tls_context
from tests.image_server import Fault, ImageServer

MIB = 1024 * 1024
SECRETS = ("sig-SECRET", "token-SECRET-in-the-path", "proxy-password")
DROPPED = Fault(drop_at_once=True)
BUSY = Fault(status=503)


trust = functools.cache(tls_context)


def image(size: int, seed: int = 1) -> bytes:
    """Return bytes that look like no others."""
    return random.Random(seed).randbytes(size)


SMALL = image(300_000)
OTHER = image(300_000, seed=2)


class MemorySink:
    """A sink in memory; what was not synced is gone after `restarted`."""

    def __init__(self, capacity: int = 1024 * MIB) -> None:
        self.data = bytearray()
        self.validator: str | None = None
        self.synced = 0
        self.syncs: list[int] = []
        self.largest_piece = self.largest_unsynced = 0
        self.start_overs = 0
        self._capacity = capacity

    @property
    def size(self) -> int:
        return len(self.data)

    def append(self, data: bytes) -> None:
        if len(self.data) + len(data) > self._capacity:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data += data
        self.largest_piece = max(self.largest_piece, len(data))
        self.largest_unsynced = max(self.largest_unsynced, self.size - self.synced)

    def sync(self) -> None:
        self.synced = self.size
        self.syncs.append(self.size)

    def start_over(self, validator: str | None) -> None:
        self.data.clear()
        self.synced = 0
        self.validator = validator
        self.start_overs += 1

    def restarted(self) -> MemorySink:
        """Return what is left after a power cut."""
        sink = MemorySink()
        sink.data, sink.validator = self.data[: self.synced], self.validator
        sink.synced = sink.size
        return sink


@dataclass
class Run:
    """What happened in a download: its waits in seconds, its retries, its progress."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    progress: list[tuple[float, int, int | None]] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        """Wait without waiting."""
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def clock(self) -> float:
        """Tell the time that only waiting moves."""
        return self.now

    async def download(self, uri: str, sink: Any, ca_pem: str | None, **policy: Any) -> None:
        """Download, with everything noted."""
        await download(
            uri,
            sink,
            DownloadPolicy(**policy),
            tls=trust(ca_pem),
            on_progress=lambda size, total: self.progress.append((self.now, size, total)),
            on_retry=self.told.append,
            sleep=self.sleep,
            clock=self.clock,
        )


def address(server: ImageServer) -> str:
    """Return the image's address with secrets in it."""
    before, _, name = server.url.rpartition("/")
    return f"{before}/token-SECRET-in-the-path/{name}?sv=2024&sig=sig-SECRET"


# Python 3.10 also says it of a TLS transport whose handshake failed, and whose socket is closed.
_OPEN = re.compile(r"Unclosed|unclosed transport (?!<asyncio\.sslproto\._SSLProtocolTransport)")


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Fail when a session or a connection is still open at the end."""
    gc.freeze()  # what others made is not looked at, which is quick, too
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            gc.collect()
            gc.unfreeze()
            texts = [str(one.message) for one in caught]
            assert [text for text in texts if _OPEN.match(text)] == []


def fetch(server: ImageServer, sink: Any, *, uri: str | None = None, **policy: Any) -> Run:
    """Download the server's image into a sink, and check that nothing is left open."""
    run = Run()
    try:
        with nothing_left_open():
            asyncio.run(run.download(uri or address(server), sink, server.ca_pem, **policy))
    finally:
        check_no_secrets(" ".join(run.told))
    return run


def fetch_slowly(server: ImageServer, sink: Any, **policy: Any) -> Run:
    """Download with a limit for the bandwidth, so that connections end while nobody reads."""

    class SlowRun(Run):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            await asyncio.sleep(0.02)

    run = SlowRun()
    work = run.download(server.url, sink, server.ca_pem, bytes_per_second=1_000_000, **policy)
    with nothing_left_open():
        asyncio.run(work)
    return run


def failure(server: ImageServer, sink: Any, *, uri: str | None = None, **policy: Any) -> Any:
    """Return the error in which a download ends, checked for secrets."""
    with pytest.raises(DownloadError) as caught:
        fetch(server, sink, uri=uri, **policy)
    error: BaseException | None = caught.value
    check_no_secrets("".join(traceback.format_exception(caught.value)))
    while error is not None:
        check_no_secrets(f"{error} {error!r} {error.args}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return caught.value


def check_no_secrets(text: str) -> None:
    """Fail when a text shows what only the address and the proxy's address hold."""
    # A traceback shows the tests' own lines, where the names of the secrets stand.
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    assert not [secret for secret in SECRETS if secret in "\n".join(lines)]


def partial_sink(server: ImageServer, size: int) -> MemorySink:
    """Return a sink that has the first bytes of the server's image."""
    sink = MemorySink()
    sink.start_over(server.etag)
    sink.append(server.image[:size])
    sink.sync()
    return sink


def use_proxy(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set the environment's proxies to these, and to no others."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
