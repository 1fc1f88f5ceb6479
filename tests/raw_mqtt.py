"""An MQTT 3.1.1 client that can be as rude as a test needs; its bytes are its own, not amqtt's."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fwupdate_helpers.localhub.sas import make_token
from tests.support import HubProcess

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP = 2, 3, 4, 9, 11, 13
PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"

DESIRED = "$iothub/twin/PATCH/properties/desired/#"
METHODS = "$iothub/methods/POST/#"
TWIN_REPLIES = "$iothub/twin/res/#"


def packet(first_byte: int, body: bytes) -> bytes:
    """A packet with its remaining length."""
    length, encoded = len(body), bytearray()
    while True:
        encoded.append(length % 128 | (0x80 if length > 127 else 0))
        length //= 128
        if not length:
            return bytes([first_byte]) + bytes(encoded) + body


def text(content: str | bytes) -> bytes:
    """A field with its length."""
    raw = content.encode() if isinstance(content, str) else content
    return len(raw).to_bytes(2, "big") + raw


def connect(
    client_id: str | bytes,
    username: str | bytes | None = "user",
    password: str | bytes | None = "password",
    *,
    clean: bool = False,
    keep_alive: int = 60,
    will: tuple[str, bytes] | None = None,
    protocol: tuple[str, int] = ("MQTT", 4),
) -> bytes:
    flags = 0x02 if clean else 0
    fields = text(client_id)
    if will is not None:
        flags |= 0x04
        fields += text(will[0]) + text(will[1])
    if username is not None:
        flags |= 0x80
        fields += text(username)
    if password is not None:
        flags |= 0x40
        fields += text(password)
    header = text(protocol[0]) + bytes([protocol[1], flags]) + keep_alive.to_bytes(2, "big")
    return packet(0x10, header + fields)


def publish(
    topic: str | bytes,
    payload: bytes = b"",
    *,
    packet_id: int | None = None,
    qos: int | None = None,
    dup: bool = False,
    retain: bool = False,
) -> bytes:
    qos = qos if qos is not None else int(packet_id is not None)
    number = b"" if packet_id is None else packet_id.to_bytes(2, "big")
    return packet(0x30 | dup << 3 | qos << 1 | retain, text(topic) + number + payload)


def puback(packet_id: int) -> bytes:
    return packet(0x40, packet_id.to_bytes(2, "big"))


def subscribe(packet_id: int, *filters: tuple[str | bytes, int]) -> bytes:
    wanted = b"".join(text(topic) + bytes([qos]) for topic, qos in filters)
    return packet(0x82, packet_id.to_bytes(2, "big") + wanted)


def unsubscribe(packet_id: int, *filters: str | bytes) -> bytes:
    return packet(0xA2, packet_id.to_bytes(2, "big") + b"".join(map(text, filters)))


@dataclass(frozen=True)
class Received:
    """A packet from the hub; `topic`, `packet_id` and `payload` are of a PUBLISH."""

    kind: int
    flags: int
    body: bytes

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)

    @property
    def topic(self) -> str:
        return self.body[2 : self._topic_end].decode()

    @property
    def packet_id(self) -> int | None:
        place = self._topic_end if self.kind == PUBLISH else 0
        if self.kind == PUBLISH and not self.qos:
            return None
        return int.from_bytes(self.body[place : place + 2], "big")

    @property
    def payload(self) -> bytes:
        return self.body[self._topic_end + (2 if self.qos else 0) :]

    @property
    def content(self) -> Any:
        return json.loads(self.payload)

    @property
    def _topic_end(self) -> int:
        return 2 + int.from_bytes(self.body[:2], "big")


class RawDevice:
    """A TLS connection to the hub's device endpoint, in the name of a device.

    Args:
        hub: Where to connect.
        device_id: Whose name to use.
        key: What signs the tokens: the device's key, unless a test wants another one.

    Attributes:
        port: Where it connects to.
    """

    port = 8883

    def __init__(
        self, hub: HubProcess, device_id: str, key: str, *, receive_buffer: int | None = None
    ) -> None:
        self.hub = hub
        self.device_id = device_id
        self.host = str(hub.ready["device_host"])
        self._key = key
        self._packet_id = 0
        self._buffer = bytearray()
        plain = socket.socket()
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(5)
        plain.connect((self.host, self.port))
        context = ssl.create_default_context(cafile=hub.ca_file)
        self.socket = self.opened(context.wrap_socket(plain, server_hostname=self.host))

    def opened(self, secure: ssl.SSLSocket) -> Any:
        """Return what MQTT is sent through: the TLS connection itself."""
        return secure

    def __enter__(self) -> RawDevice:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    # -- sending ----------------------------------------------------------------------------------

    def send(self, *packets: bytes) -> None:
        self.socket.sendall(b"".join(packets))

    def token(self, *, resource: str = "", policy: str | None = None, valid: int = 600) -> str:
        """Sign a token that is valid for so many seconds."""
        resource = resource or f"{self.host}/devices/{self.device_id}"
        return make_token(resource, self._key, int(time.time()) + valid, policy)

    def connect(
        self,
        *,
        client_id: str | None = None,
        username: str | None = None,
        password: str | None = None,
        **options: Any,
    ) -> tuple[bool, int]:
        """Send CONNECT; return session-present and the return code of the CONNACK."""
        username = username or f"{self.host}/{self.device_id}/?api-version=2019-10-01"
        self.send(
            connect(
                self.device_id if client_id is None else client_id,
                username,
                self.token() if password is None else password,
                **options,
            )
        )
        answer = self.receive()
        assert (answer.kind, len(answer.body)) == (CONNACK, 2)
        return bool(answer.body[0]), answer.body[1]

    def connected(self, **options: Any) -> RawDevice:
        """Connect, which must succeed."""
        assert self.connect(**options)[1] == 0
        return self

    def subscribe(self, topic: str, qos: int = 1) -> int:
        """Subscribe; return the granted QoS."""
        number = self.next_id()
        self.send(subscribe(number, (topic, qos)))
        answer = self.receive()
        assert (answer.kind, answer.packet_id) == (SUBACK, number)
        return answer.body[2]

    def next_id(self) -> int:
        self._packet_id += 1
        return self._packet_id

    # -- receiving --------------------------------------------------------------------------------

    def receive(self, timeout: float = 5) -> Received:
        """Return the next packet; raise TimeoutError, or ConnectionError when the hub hung up."""
        while (found := self._take()) is None:
            self._read(timeout)
        return found

    def is_silent(self, seconds: float) -> bool:
        """Tell whether the hub sends nothing, and keeps the connection, for so long."""
        try:
            self.receive(seconds)
        except TimeoutError:
            return True
        return False

    def answers_ping(self) -> bool:
        """Tell whether the connection is alive; nothing else may have been on its way."""
        self.send(PINGREQ)
        return self.receive().kind == PINGRESP

    def wait_until_closed(self, timeout: float = 5) -> list[Received]:
        """Wait until the hub hangs up; return what it sent before."""
        received = []
        while True:
            try:
                received.append(self.receive(timeout))
            except ConnectionError:
                return received

    def _take(self) -> Received | None:
        length, place = 0, 1
        while True:
            if len(self._buffer) <= place:
                return None
            byte = self._buffer[place]
            length += (byte & 0x7F) << 7 * (place - 1)
            place += 1
            if not byte & 0x80:
                break
        if len(self._buffer) < place + length:
            return None
        first, body = self._buffer[0], bytes(self._buffer[place : place + length])
        del self._buffer[: place + length]
        return Received(first >> 4, first & 15, body)

    def _read(self, timeout: float) -> None:
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(65536)
        except (ssl.SSLError, OSError) as error:
            if isinstance(error, TimeoutError):  # which a socket's timeout is since Python 3.10
                raise
            raise ConnectionError("the hub hung up") from error
        if not data:
            raise ConnectionError("the hub hung up")
        self._buffer += data


OpenDevice = Callable[..., RawDevice]
"""Opens a TLS connection for a device id; `key` and what RawDevice takes are optional."""
