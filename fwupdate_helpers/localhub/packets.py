"""MQTT 3.1.1 packets: bytes in, checked packets out, and the few packets that the hub sends.

The parser is amqtt's. It accepts truncated packets, so a packet counts only when writing it again
gives the very bytes that came in, every announced field is there and every reserved bit is zero.
No I/O: feed bytes to a `PacketDecoder`.
Source of the rules: MQTT Version 3.1.1 (OASIS Standard), numbers in brackets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from amqtt.adapters import BufferReader
from amqtt.errors import AMQTTError, CodecError, MQTTError, NoDataError
from amqtt.mqtt import packet_dict
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MQTTPacket,
)
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsuback import UnsubackPacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

Packet = MQTTPacket[Any, Any, Any]

MAX_PAYLOAD = 256 * 1024
"""The largest device-to-cloud message, in bytes."""
_MAX_REMAINING_LENGTH = MAX_PAYLOAD + 8 * 1024

_FLAGS = {CONNECT: 0, PUBACK: 0, SUBSCRIBE: 2, UNSUBSCRIBE: 2, PINGREQ: 0, DISCONNECT: 0}
"""The packets that a client may send, with their fixed flags; PUBLISH has flags of its own."""
_UNREADABLE = (
    AMQTTError,
    CodecError,
    MQTTError,
    NoDataError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)
"""What amqtt raises for bytes that are no packet; its errors have no base in common."""


class ProtocolViolation(Exception):
    """A packet that ends its connection."""


class UnsupportedProtocolVersion(ProtocolViolation):
    """A CONNECT of another version than MQTT 3.1.1, to be answered with CONNACK 1 [3.1.2-2]."""


class PacketDecoder:
    """Cuts a stream of bytes into checked packets; holds at most one unfinished packet."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that `data` completes; a bad one raises `ProtocolViolation`."""
        self._buffer += data
        while (length := self._packet_length()) is not None and length <= len(self._buffer):
            raw = bytes(self._buffer[:length])
            del self._buffer[:length]
            yield decode(raw)

    def _packet_length(self) -> int | None:
        remaining = 0
        for place, byte in enumerate(self._buffer[1:5]):
            remaining += (byte & 0x7F) << (7 * place)
            if not byte & 0x80:
                if remaining > _MAX_REMAINING_LENGTH:
                    raise ProtocolViolation(f"a packet of {remaining} bytes is too large")
                return 2 + place + remaining
        if len(self._buffer) >= 5:
            raise ProtocolViolation("the remaining length has more than four bytes [2.2.3]")
        return None


def decode(raw: bytes) -> Packet:
    """Parse one whole packet from a client.

    Raises:
        ProtocolViolation: It breaks a rule of MQTT, or QoS 2, which IoT Hub does not offer.
    """
    kind, flags = raw[0] >> 4, raw[0] & 0x0F
    if kind != PUBLISH and _FLAGS.get(kind) != flags:
        raise ProtocolViolation(f"packet type {kind} with flags {flags:#06b}")
    if kind == CONNECT:
        _check_protocol(raw)
    try:
        packet = _parse(packet_dict[kind], raw)
        _CHECKS.get(kind, _check_nothing)(packet)
        same = packet.to_bytes() == raw
    except _UNREADABLE as error:
        raise ProtocolViolation(f"packet type {kind} cannot be read: {error}") from error
    if not same:
        raise ProtocolViolation(f"packet type {kind} is truncated, too long or not canonical")
    return packet


def _parse(kind: type[Packet], raw: bytes) -> Packet:
    # amqtt's parser is a coroutine that never waits when it reads from a buffer.
    parsing = kind.from_stream(BufferReader(raw))
    try:
        parsing.send(None)
    except StopIteration as finished:
        packet: Packet = finished.value
        return packet
    parsing.close()
    raise ProtocolViolation("the packet is not complete")


def _check_nothing(packet: Packet) -> None:
    """Packets that are all fixed header, or an id."""


def _check_protocol(raw: bytes) -> None:
    start = next((i + 1 for i in range(1, 5) if not raw[i] & 0x80), 5)
    name_end = start + 2 + int.from_bytes(raw[start : start + 2], "big")
    if len(raw) <= name_end:
        raise ProtocolViolation("a CONNECT without a protocol level")
    if raw[start + 2 : name_end] not in (b"MQTT", b"MQIsdp"):
        raise ProtocolViolation("a CONNECT of another protocol [3.1.2-1]")
    if (raw[start + 2 : name_end], raw[name_end]) != (b"MQTT", 4):
        raise UnsupportedProtocolVersion("the hub speaks MQTT 3.1.1 only")


def _check_connect(packet: ConnectPacket) -> None:
    header, payload = packet.variable_header, packet.payload
    if header is None or payload is None:
        raise ProtocolViolation("a CONNECT without a payload")
    if payload.client_id_is_random:
        payload.client_id = ""
    if header.reserved_flag or (header.password_flag and not header.username_flag):
        raise ProtocolViolation("CONNECT flags [3.1.2-3, 3.1.2-22]")
    will_settings = header.will_qos or header.will_retain_flag
    if header.will_qos == 3 or (will_settings and not header.will_flag):
        raise ProtocolViolation("will flags of a CONNECT [3.1.2-13 to 3.1.2-15]")
    announced = [payload.client_id]
    if header.username_flag:
        announced.append(payload.username)
    if header.password_flag:
        announced.append(payload.password)
    for text in announced:
        _check_text(text)
    if header.will_flag:
        _check_topic(payload.will_topic)
    if header.will_flag and payload.will_message is None:
        raise ProtocolViolation("a CONNECT that announces a will and has none")


def _check_publish(packet: PublishPacket) -> None:
    if packet.qos == 2 or packet.qos == 3:
        raise ProtocolViolation("QoS 2 is not offered")
    if packet.dup_flag and packet.qos == 0:
        raise ProtocolViolation("DUP with QoS 0 [3.3.1-2]")
    _check_topic(packet.topic_name)
    if packet.qos and not packet.packet_id:
        raise ProtocolViolation("packet id 0 [2.3.1-1]")
    if len(packet.data or b"") > MAX_PAYLOAD:
        raise ProtocolViolation(f"a message of over {MAX_PAYLOAD} bytes")


def _check_subscribe(packet: SubscribePacket) -> None:
    _check_packet_id(packet)
    topics = packet.payload.topics if packet.payload else []
    if not topics:
        raise ProtocolViolation("a SUBSCRIBE without a topic filter [3.8.3-3]")
    for topic, qos in topics:
        _check_topic(topic)
        if qos > 2:
            raise ProtocolViolation("a SUBSCRIBE with reserved bits [3.8.3-4]")


def _check_unsubscribe(packet: UnsubscribePacket) -> None:
    _check_packet_id(packet)
    topics = packet.payload.topics if packet.payload else []
    if not topics:
        raise ProtocolViolation("an UNSUBSCRIBE without a topic filter [3.10.3-2]")
    for topic in topics:
        _check_topic(topic)


def _check_packet_id(packet: Packet) -> None:
    if packet.variable_header is None or not packet.variable_header.packet_id:
        raise ProtocolViolation("packet id 0 [2.3.1-1]")


def _check_text(text: str | None) -> None:
    if text is None:
        raise ProtocolViolation("an announced field is missing")
    if "\x00" in text:
        raise ProtocolViolation("U+0000 in a text [1.5.3-2]")


def _check_topic(topic: str | None) -> None:
    _check_text(topic)
    if not topic:
        raise ProtocolViolation("an empty topic or topic filter [4.7.3-1]")


_CHECKS: dict[int, Any] = {
    CONNECT: _check_connect,
    PUBLISH: _check_publish,
    PUBACK: _check_packet_id,
    SUBSCRIBE: _check_subscribe,
    UNSUBSCRIBE: _check_unsubscribe,
}


def connack(return_code: int, *, session_present: bool = False) -> bytes:
    """Write a CONNACK."""
    return ConnackPacket.build(int(session_present), return_code).to_bytes()


def publish(
    topic: str, payload: bytes, *, packet_id: int | None = None, dup: bool = False
) -> bytes:
    """Write a PUBLISH: QoS 1 with a packet id, QoS 0 without."""
    qos = 0 if packet_id is None else 1
    return PublishPacket.build(topic, payload, packet_id, dup, qos, False).to_bytes()


def puback(packet_id: int) -> bytes:
    """Write a PUBACK."""
    return PubackPacket.build(packet_id).to_bytes()


def suback(packet_id: int, return_codes: list[int]) -> bytes:
    """Write a SUBACK: one granted QoS, or 0x80 for a refusal, for each topic filter."""
    return SubackPacket.build(packet_id, return_codes).to_bytes()


def unsuback(packet_id: int) -> bytes:
    """Write an UNSUBACK."""
    return UnsubackPacket.build(packet_id).to_bytes()


def pingresp() -> bytes:
    """Write a PINGRESP."""
    return PingRespPacket().to_bytes()
