"""One try of a download after the other: requests, what comes back, and where it goes."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import datetime, timezone
from typing import Final, Protocol, cast

import aiohttp
from yarl import URL

from fwupdate_helpers.contract import (
    CODE_DISK_FULL,
    CODE_IMAGE_CHANGED,
    CODE_TOO_LARGE,
    CODE_URI_REFUSED,
)
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware import http_answers as answers
from fwupdate_helpers.firmware.aiohttp_answer import Answer
from fwupdate_helpers.firmware.download_policy import DownloadPolicy
from fwupdate_helpers.firmware.http_answers import Body, Partial, TemporaryProblem, UselessPart
from fwupdate_helpers.firmware.network_errors import NETWORK_ERRORS, explain
from fwupdate_helpers.firmware.pacing import Clock, Pacer, Sleep, piece_bytes
from fwupdate_helpers.firmware.uris import proxy_for, redirected, shown

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "fwupdate-device"}


class Sink(Protocol):
    """Where the bytes of an image go. All its calls are short: they run on the event loop."""

    @property
    def size(self) -> int:
        """How many bytes are there; after a restart, how many have survived."""

    @property
    def validator(self) -> str | None:
        """The ETag that those bytes belong to, None when unknown."""

    def append(self, data: bytes) -> None:
        """Write at the end; ``OSError`` with ``ENOSPC`` when there is no room."""

    def sync(self) -> None:
        """Make what was appended survive a power cut from here on."""

    def start_over(self, validator: str | None) -> None:
        """Drop every byte, and durably note the ETag that the next ones belong to."""


class Transfer:
    """The way of one image into a sink, over as many connections as it takes.

    The arguments are those of `download.download`.

    Attributes:
        place: What to call the image's address in messages.
        tries: How many tries there were.
        deadline: When the download must be over, on `clock`.
    """

    def __init__(
        self,
        uri: str,
        sink: Sink,
        policy: DownloadPolicy,
        *,
        on_progress: Callable[[int, int | None], None],
        on_retry: Callable[[str], None],
        sleep: Sleep,
        clock: Clock,
    ) -> None:
        self.place = shown(uri)
        self.tries = 0
        self.deadline = clock() + policy.total_seconds
        self._uri, self._sink, self._policy = uri, sink, policy
        self._on_progress, self._on_retry, self._clock = on_progress, on_retry, clock
        self._pacer = Pacer(policy.bytes_per_second, sleep=sleep, clock=clock)
        self._piece = piece_bytes(policy.bytes_per_second)
        self._http: aiohttp.ClientSession
        self._size, self._unsynced = sink.size, 0
        self._total: int | None = None
        self._furthest = self._size if answers.strong_etag(sink.validator) else 0
        self._changes = 0
        self._done = False

    @property
    def amount(self) -> str:
        """How much is there, for messages."""
        whole = "" if self._total is None else f" of {self._total:,}"
        return f"{self._size:,}{whole} bytes"

    def got_further(self) -> bool:
        """Tell whether there are more bytes of the image than there ever were before."""
        further = self._size > self._furthest
        self._furthest = max(self._size, self._furthest)
        return further

    @asynccontextmanager
    async def connect(self, tls: ssl.SSLContext) -> AsyncIterator[None]:
        """Allow tries within the context; at its end every connection is closed."""
        self._http = aiohttp.ClientSession(
            # No connection is used twice, as one that is lost while idle would count as a try.
            connector=aiohttp.TCPConnector(ssl=tls, force_close=True),
            response_class=Answer,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            read_bufsize=max(self._piece, 4096),
        )
        async with self._http:
            yield

    async def attempt(self) -> None:
        """Try to get all that is missing; whatever happens, what has come is synced.

        Raises:
            TemporaryProblem: The next try may succeed.
            DownloadError: None will.
        """
        self.tries += 1
        try:
            while not self._done:
                await self._request()
        finally:
            self._sync()

    async def _request(self) -> None:
        """Ask for what is missing, and take what comes: all of it, or a part."""
        have = self._at_hand()
        try:
            async with self._get(answers.resume_headers(have)) as answer:
                await self._take(answer, have)
            return
        except UselessPart as error:
            useless = error
        self._start_over(None, changed=useless.changed)
        raise TemporaryProblem(f"{useless}, so the device starts over")

    def _at_hand(self) -> Partial:
        validator = answers.strong_etag(self._sink.validator)
        if self._size and validator is None:
            self._tell_start_over("there is no strong ETag to tell which image they belong to")
            self._start_over(None)
        return Partial(self._size, validator if self._size else None, self._total)

    # -- one answer -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _get(self, headers: dict[str, str]) -> AsyncIterator[Answer]:
        answer = await self._follow(headers)
        try:
            yield answer
        finally:
            answer.hang_up()

    async def _follow(self, headers: dict[str, str]) -> Answer:
        uri, policy = self._uri, self._policy
        for _ in range(policy.redirects + 1):
            answer = await self._send(uri, headers)
            if answer.status not in answers.REDIRECTS:
                return answer
            answer.hang_up()
            location = answer.headers.get("Location")
            uri = redirected(uri, location, allow_http=policy.allow_http)
        raise DownloadError(
            CODE_URI_REFUSED,
            f"{self.place} redirects more than {policy.redirects} times. Give the address where "
            "the image is.",
        )

    async def _send(self, uri: str, headers: dict[str, str]) -> Answer:
        policy = self._policy
        timeout = aiohttp.ClientTimeout(
            total=max(self.deadline - self._clock(), 0.001),
            connect=policy.idle_seconds,
            sock_read=policy.idle_seconds,
        )
        proxy = await asyncio.to_thread(proxy_for, uri)
        try:
            # Encoded already: a signature may not be quoted anew.
            url = URL(uri, encoded=True)
            answer = await self._http.get(
                url, headers=headers, proxy=proxy, timeout=timeout, allow_redirects=False
            )
            return cast(Answer, answer)
        except NETWORK_ERRORS as error:
            problem = explain(error, shown(uri))
        raise problem  # out here, so that it has no context that holds the address

    async def _take(self, answer: Answer, have: Partial) -> None:
        self._check_status(answer, have)
        if answer.status == 416:
            if not answers.is_complete(have, answer.headers):
                await self._probe(have)
            self._complete()
            return
        if answer.status == 206:
            body = answers.partial_body(have, answer.headers, answer.content_length)
            self._check_size(body.total or 0)
        else:
            body = self._from_the_first_byte(answer, have)
        self._total = body.total
        self._on_progress(self._size, self._total)
        await self._store_pieces(answer, body)

    async def _probe(self, have: Partial) -> None:
        async with self._get(answers.probe_headers(have)) as answer:
            self._check_status(answer, have)
            answers.check_probe(have, answer.status, answer.headers)

    def _check_status(self, answer: Answer, have: Partial) -> None:
        now = datetime.now(timezone.utc)
        answers.check_status(
            answer.status, answer.headers, ranged=have.size > 0, place=self.place, now=now
        )

    def _from_the_first_byte(self, answer: Answer, have: Partial) -> Body:
        body, changed = answers.whole_body(have, answer.headers.get("ETag"), answer.content_length)
        self._check_size(body.total or 0)
        if have.size:
            self._tell_start_over("it has changed" if changed else "the server does not resume")
        self._start_over(body.validator, changed=changed)
        return body

    async def _store_pieces(self, answer: Answer, body: Body) -> None:
        async with aclosing(self._pieces(answer)) as pieces:
            async for piece in pieces:
                self._store(piece, body)
                await self._pacer.after(len(piece))
                if self._clock() > self.deadline:
                    raise TemporaryProblem("the time is up")
        if body.stop is not None and self._size < body.stop:
            raise TemporaryProblem("the server sent less than it announced")
        if body.total in (None, self._size):
            self._complete()

    async def _pieces(self, answer: Answer) -> AsyncGenerator[bytes, None]:
        try:
            while piece := await answer.read_piece(self._piece, self._policy.idle_seconds):
                yield piece
            return
        except NETWORK_ERRORS as error:
            problem = explain(error, self.place)
        while piece := answer.left_over(self._piece):
            yield piece
        raise problem

    def _complete(self) -> None:
        self._total = self._size
        self._done = True
        self._on_progress(self._size, self._total)

    # -- the sink ---------------------------------------------------------------------------------

    def _store(self, piece: bytes, body: Body) -> None:
        size = self._size + len(piece)
        if body.stop is not None and size > body.stop:
            raise UselessPart("the server sent more than it announced")
        self._check_size(size)
        with self._full_flash_told():
            self._sink.append(piece)
        self._size = size
        self._unsynced += len(piece)
        if self._unsynced >= self._policy.sync_bytes:
            self._sync()
        self._on_progress(size, self._total)

    def _sync(self) -> None:
        if self._unsynced:
            with self._full_flash_told():
                self._sink.sync()
            self._unsynced = 0

    def _tell_start_over(self, why: str) -> None:
        self._on_retry(f"{self.amount} of the image cannot be kept: {why}. Starting over.")

    def _start_over(self, validator: str | None, *, changed: bool = False) -> None:
        if changed:
            self._changes += 1
            self._furthest = 0
            if self._changes > self._policy.start_overs:
                raise DownloadError(
                    CODE_IMAGE_CHANGED,
                    f"{self.place} changed {self._changes} times while it was downloaded. Publish "
                    "each image under an address of its own, and start the update again.",
                )
        self._size, self._unsynced, self._total = 0, 0, None
        with self._full_flash_told():
            self._sink.start_over(validator)

    @contextmanager
    def _full_flash_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise DownloadError(
                CODE_DISK_FULL,
                f"The flash is full after {self.amount}. Free some space on the device, or "
                "publish a smaller image.",
            ) from error

    def _check_size(self, size: int) -> None:
        if size > self._policy.size_limit:
            raise DownloadError(
                CODE_TOO_LARGE,
                f"{self.place} has {size:,} bytes or more, and this device takes "
                f"{self._policy.size_limit:,} at most.",
            )
