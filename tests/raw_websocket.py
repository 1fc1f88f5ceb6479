"""A device that speaks bare MQTT within WebSocket frames of its own, as rude as a test needs."""

from __future__ import annotations

import os
import ssl
from typing import Any

from tests.raw_mqtt import RawDevice

PATH = "/$iothub/websocket"
BINARY, TEXT, CLOSE = 0x82, 0x81, 0x88


def upgrade(host: str, *, protocol: str = "mqtt") -> bytes:
    """Return the request that opens a WebSocket."""
    lines = [
        *(f"GET {PATH} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        f"Sec-WebSocket-Protocol: {protocol}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def read_head(secure: ssl.SSLSocket) -> str:
    """Read an answer up to its empty line; what follows stays in the socket."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = secure.recv(1)
        if not byte:
            raise ConnectionError(f"the hub hung up after {head!r}")
        head += byte
    return head.decode()


def frame(data: bytes, kind: int = BINARY) -> bytes:
    """Return a masked frame, as clients must send them."""
    mask, size = os.urandom(4), len(data)
    length = bytes([size | 0x80]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
    return bytes([kind]) + length + mask + masked


class FrameSocket:
    """A socket whose bytes travel in binary frames.

    Attributes:
        closed_with: The code of the hub's CLOSE frame, once it has come.
    """

    def __init__(self, secure: ssl.SSLSocket) -> None:
        self.plain = secure
        self.closed_with: int | None = None
        self._buffer = bytearray()

    def sendall(self, data: bytes) -> None:
        self.plain.sendall(frame(data))

    def settimeout(self, seconds: float) -> None:
        self.plain.settimeout(seconds)

    def close(self) -> None:
        self.plain.close()

    def recv(self, size: int) -> bytes:
        """Return what the next binary frame holds; nothing, at the end."""
        while (found := self._take()) is None:
            data = self.plain.recv(size)
            if not data:
                return b""
            self._buffer += data
        kind, content = found
        if kind == CLOSE:
            self.closed_with = int.from_bytes(content[:2], "big")
            return b""
        assert kind == BINARY, f"{kind:#x} is no frame of MQTT"
        return content

    def _take(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < 2:
            return None
        size, start = self._buffer[1], 2
        for mark, width in ((126, 2), (127, 8)):
            if self._buffer[1] == mark:
                start = 2 + width
                size = int.from_bytes(self._buffer[2:start], "big")
        if len(self._buffer) < start + size:
            return None
        found = self._buffer[0], bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return found


class WebSocketDevice(RawDevice):
    """A WebSocket at the hub's device endpoint, in the name of a device."""

    port = 443

    def opened(self, secure: ssl.SSLSocket) -> Any:
        secure.sendall(upgrade(self.host))
        head = read_head(secure)
        assert head.startswith("HTTP/1.1 101 ") and "sec-websocket-protocol: mqtt" in head.lower()
        return FrameSocket(secure)
