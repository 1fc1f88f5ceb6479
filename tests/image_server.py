"""A small HTTPS server of one image, whose faults are scripted and happen on the wire; a proxy.

It answers each request on a connection of its own, in a thread of its own, and writes down what
it was asked and how much of a body it sent.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import re
import socket
import ssl
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fwupdate_helpers.localhub.statedir import StateDir
from fwupdate_helpers.localhub.tls import ensure_certificates, server_context

PIECE: Final = 64 * 1024
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Fault:
    """How one answer differs from that of a good server; without arguments it does not.

    Attributes:
        status: Answer with this status and no image.
        headers: Headers to add or replace; those with None are left out.
        body: Send this body in place of what was asked for.
        drop_after: Close the connection after so many bytes of the body.
        reset: Close it with a TCP reset, in place of an orderly end.
        drop_at_once: Close it before anything is sent.
        stall_after: Send nothing more after so many bytes of the body, and leave it open.
        ignore_range: Answer with the whole image, whatever part was asked for.
        ignore_if_range: Answer with the part, even when the image has changed.
        chunked: Send the body in chunks, so without a length.
        broken_chunks: Like `chunked`, with an end that is none.
        compressed: Send the body through gzip.
        raw: Send exactly these bytes in place of an HTTP answer.
        before: Called before the answer, for example to change the image.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    drop_after: int | None = None
    reset: bool = False
    drop_at_once: bool = False
    stall_after: int | None = None
    ignore_range: bool = False
    ignore_if_range: bool = False
    chunked: bool = False
    broken_chunks: bool = False
    compressed: bool = False
    raw: bytes | None = None
    before: Callable[[ImageServer], None] | None = None


@dataclass
class Request:
    """What the server was asked, and what it sent.

    Attributes:
        method: For example ``GET``.
        target: The path with the query.
        headers: With names in small letters.
        status: The status of the answer, 0 when there was none.
        sent: Bytes of the body that were handed to the network.
    """

    method: str
    target: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class ImageServer:
    """Serves one image over HTTPS (or HTTP) on a free loopback port.

    Args:
        image: The image's bytes.
        name: The last part of its address; every path leads to the image, though.
        tls: Whether it speaks HTTPS.
        address: The loopback address, one of 127.0.0.1 to 127.0.0.16.

    Attributes:
        image: The bytes; they may be set anew, and the ETag follows.
        script: The faults of the next requests, in their order.
        always: The fault of every request when the script is used up.
        requests: Every request so far.
        ca_pem: The certificate that a client has to trust.

    Example:
        >>> with ImageServer(b"image") as server:  # doctest: +SKIP
        ...     server.script.append(Fault(drop_after=2))
        ...     fetch(server.url, server.ca_pem)
        ...     assert [request.status for request in server.requests] == [200, 206]
    """

    def __init__(
        self,
        image: bytes,
        *,
        name: str = "edge-2.0.0.fw",
        tls: bool = True,
        address: str = "127.0.0.1",
    ) -> None:
        self.image = image
        self.script: deque[Fault] = deque()
        self.always = Fault()
        self.requests: list[Request] = []
        self._context: ssl.SSLContext | None = None
        self.ca_pem = ""
        if tls:
            self._context, self.ca_pem = _tls()
        self._name, self._address = name, address
        self._ending = threading.Event()
        self._listener = socket.create_server((address, 0))
        self._port: int = self._listener.getsockname()[1]
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._etag: tuple[bytes, str] | None = None

    def __enter__(self) -> ImageServer:
        self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        # A connection of our own wakes the thread that accepts; closing the listener may not.
        with suppress(OSError):
            socket.create_connection((self._address, self._port)).close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The image's address."""
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{self._address}:{self._port}/{self._name}"

    @property
    def etag(self) -> str:
        """The strong ETag of the image as it is now."""
        if self._etag is None or self._etag[0] is not self.image:
            self._etag = (self.image, f'"{hashlib.sha256(self.image).hexdigest()[:32]}"')
        return self._etag[1]

    @property
    def sent(self) -> int:
        """Bytes of bodies that were handed to the network, over all requests."""
        return sum(request.sent for request in self.requests)

    @property
    def ranges(self) -> list[str | None]:
        """The ``Range`` of every request."""
        return [request.headers.get("range") for request in self.requests]

    # -- connections ------------------------------------------------------------------------------

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="image-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._ending.is_set():
                connection.close()
                return
            self._start(self._serve, connection)

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        self._connections.add(plain)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Small, so that what counts as sent is not far from what was.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PIECE)
            if self._context is not None:
                connection = self._context.wrap_socket(plain, server_side=True)
                self._connections.discard(plain)
                self._connections.add(connection)
            request = _read_request(connection)
            if request is not None:
                self.requests.append(request)
                self._answer(connection, request)
        except OSError:  # the client went away, as some tests want it to
            pass
        finally:
            self._connections.discard(plain)
            self._connections.discard(connection)
            connection.close()

    # -- one answer -------------------------------------------------------------------------------

    def _answer(self, connection: socket.socket, request: Request) -> None:
        fault = self.script.popleft() if self.script else self.always
        if fault.before is not None:
            fault.before(self)
        if fault.drop_at_once:
            _end(connection, reset=fault.reset)
            return
        if fault.raw is not None:
            connection.sendall(fault.raw)
            return
        status, headers, body = self._good_answer(request, fault)
        if fault.status is not None:
            status = fault.status
            body = memoryview(fault.body or b"")
            headers["Content-Length"] = str(len(body))
        elif fault.body is not None:
            body = memoryview(fault.body)
        if fault.compressed:
            body = memoryview(gzip.compress(body))
            headers.update({"Content-Encoding": "gzip", "Content-Length": str(len(body))})
        is_chunked = fault.chunked or fault.broken_chunks
        if is_chunked:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
        for name, value in fault.headers.items():
            if value is None:
                headers.pop(name, None)
            else:
                headers[name] = value
        request.status = status
        connection.sendall(_head(status, headers))
        if request.method != "HEAD":
            self._send_body(connection, request, body, fault, is_chunked=is_chunked)

    def _good_answer(
        self, request: Request, fault: Fault
    ) -> tuple[int, dict[str, str], memoryview]:
        image, etag = memoryview(self.image), self.etag
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "Connection": "close"}
        span = _RANGE.fullmatch(request.headers.get("range", ""))
        if_range = request.headers.get("if-range")
        unchanged = fault.ignore_if_range or if_range in (None, etag)
        if span is None or fault.ignore_range or not unchanged:
            headers["Content-Length"] = str(len(image))
            return 200, headers, image
        start = int(span.group(1))
        stop = min(int(span.group(2)) + 1 if span.group(2) else len(image), len(image))
        if start >= stop:
            headers |= {"Content-Range": f"bytes */{len(image)}", "Content-Length": "0"}
            return 416, headers, image[:0]
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(image)}"
        headers["Content-Length"] = str(stop - start)
        return 206, headers, image[start:stop]

    def _send_body(
        self,
        connection: socket.socket,
        request: Request,
        body: memoryview,
        fault: Fault,
        *,
        is_chunked: bool,
    ) -> None:
        limits = [limit for limit in (fault.drop_after, fault.stall_after) if limit is not None]
        for piece in _pieces(body[: min(limits, default=len(body))]):
            if is_chunked:
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))
            else:
                connection.sendall(piece)
            request.sent += len(piece)
        if fault.stall_after is not None:
            connection.recv(1)  # until the client has had enough, or the server ends
        elif fault.drop_after is not None:
            _end(connection, reset=fault.reset)
        elif is_chunked:
            connection.sendall(b"zz\r\n" if fault.broken_chunks else b"0\r\n\r\n")


@functools.cache
def _tls() -> tuple[ssl.SSLContext, str]:
    """Return what a server offers and what its clients trust, the same for all of this process."""
    with tempfile.TemporaryDirectory() as folder:
        state = StateDir(Path(folder) / "ca")
        state.prepare()
        ensure_certificates(state, "127.0.0.1")
        return server_context(state), state.ca_file.read_text(encoding="ascii")


def _read_request(connection: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(PIECE)
        if not more:
            return None
        data += more
        if not data[:1].isalpha():  # a client that speaks TLS to a server that does not
            connection.sendall(_head(400, {"Connection": "close"}))
            return None
    first, *lines = data.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = [line.partition(":") for line in lines]
    return Request(method, target, {name.lower(): value.strip() for name, _, value in pairs})


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {headers[name]}" for name in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _pieces(body: memoryview) -> Iterable[memoryview]:
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


def _end(connection: socket.socket, *, reset: bool) -> None:
    if reset:
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class ConnectProxy:
    """An HTTP proxy that writes down every ``CONNECT``, and refuses it or leads all to one port.

    Args:
        status: What it answers; with 200 it leads to `port`.
        port: On 127.0.0.1.

    Attributes:
        targets: What it was asked to connect to, as ``host:port``.
        address: Its own address, as ``HTTPS_PROXY`` has it, with a password that no log may show.
    """

    def __init__(self, status: int = 403, port: int = 0) -> None:
        self.targets: list[str] = []
        self._status, self._port = status, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._own_port: int = self._listener.getsockname()[1]
        self.address = f"http://someone:proxy-password@127.0.0.1:{self._own_port}"
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> ConnectProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._status = 0
        socket.create_connection(("127.0.0.1", self._own_port)).close()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if not self._status:
                connection.close()
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            request = _read_request(connection)
            if request is None:
                return
            self.targets.append(request.target)
            connection.sendall(_head(self._status, {"Content-Length": "0"}))
            if self._status == 200:
                with socket.create_connection(("127.0.0.1", self._port)) as beyond:
                    back = threading.Thread(target=_pump, args=(beyond, connection))
                    back.start()
                    _pump(connection, beyond)
                    back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(PIECE):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
