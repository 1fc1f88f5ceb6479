"""MQTT packets: what a client may send, what ends its connection, what the hub sends."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from fwupdate_helpers.localhub import packets
from fwupdate_helpers.localhub.packets import (
    MAX_PAYLOAD,
    Packet,
    PacketDecoder,
    ProtocolViolation,
    UnsupportedProtocolVersion,
    decode,
)
from tests.raw_mqtt import (
    DISCONNECT,
    PINGREQ,
    connect,
    packet,
    puback,
    publish,
    subscribe,
    text,
    unsubscribe,
)

VALID = {
    "CONNECT": connect("d1"),
    "CONNECT with a will": connect("d1", will=("devices/d1/messages/events/", b"gone")),
    "CONNECT with an empty will": connect("d1", will=("topic", b"")),
    "CONNECT without password": connect("d1", "user", None),
    "CONNECT without user": connect("d1", None, None, clean=True),
    "CONNECT with an empty user": connect("d1", "", ""),
    "CONNECT with an empty client id": connect(""),
    "PUBLISH": publish("a/b", b"payload"),
    "PUBLISH without payload": publish("a/b"),
    "PUBLISH with QoS 1": publish("a/b", b"payload", packet_id=7),
    "PUBLISH with QoS 1 without payload": publish("a/b", packet_id=65535),
    "PUBLISH again": publish("a/b", b"payload", packet_id=7, dup=True),
    "PUBLISH retained": publish("a/b", b"payload", retain=True),
    "PUBLISH of 300 bytes": publish("a/b", b"x" * 300),
    "PUBLISH of the largest size": publish("a/b", b"x" * MAX_PAYLOAD),
    "PUBLISH to a topic in UTF-8": publish("é/😀", b"\xff\x00"),
    "PUBACK": puback(1),
    "SUBSCRIBE": subscribe(1, ("a/#", 0)),
    "SUBSCRIBE to three": subscribe(1, ("a/#", 0), ("b", 1), ("c/+", 2)),
    "UNSUBSCRIBE": unsubscribe(1, "a/#"),
    "UNSUBSCRIBE from two": unsubscribe(1, "a/#", "b"),
    "PINGREQ": PINGREQ,
    "DISCONNECT": DISCONNECT,
}
SMALL = {name: raw for name, raw in VALID.items() if len(raw) < 1000}


def header_length(raw: bytes) -> int:
    return next(i + 1 for i in range(1, 5) if not raw[i] & 0x80)


def body(raw: bytes) -> bytes:
    return raw[header_length(raw) :]


def feed(*chunks: bytes) -> list[Packet]:
    decoder = PacketDecoder()
    return [found for chunk in chunks for found in decoder.feed(chunk)]


def refused(raw: bytes) -> ProtocolViolation:
    with pytest.raises(ProtocolViolation) as error:
        feed(raw)
    return error.value


# -- whole packets ------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", VALID.values(), ids=VALID)
def test_a_valid_packet_is_read_and_written_alike(raw: bytes) -> None:
    (found,) = feed(raw)
    assert found.to_bytes() == raw


def test_all_fields_of_a_connect_are_read() -> None:
    (found,) = feed(connect("d1", "ü", "p", clean=True, keep_alive=1177, will=("t", b"\xff")))

    assert (found.client_id, found.username, found.password) == ("d1", "ü", "p")
    assert (found.variable_header.keep_alive, found.clean_session_flag) == (1177, True)
    assert (found.will_flag, found.will_topic, found.will_message) == (True, "t", b"\xff")


def test_an_empty_client_id_stays_empty() -> None:
    (found,) = feed(connect("", clean=True))
    assert found.client_id == ""


def test_all_fields_of_a_publish_are_read() -> None:
    (found,) = feed(publish("a/b", b"\x00\xff", packet_id=513, dup=True, retain=True))

    assert (found.topic_name, found.data, found.packet_id) == ("a/b", b"\x00\xff", 513)
    assert (found.qos, found.dup_flag, found.retain_flag) == (1, True, True)


# -- truncated, padded, cut up ------------------------------------------------------------------


@pytest.mark.parametrize("raw", SMALL.values(), ids=SMALL)
def test_a_packet_that_is_cut_short_is_refused(raw: bytes) -> None:
    """Every truncation, with a remaining length that says the packet is whole."""
    content = body(raw)
    for length in range(len(content)):
        shorter = packet(raw[0], content[:length])
        if raw[0] >> 4 == 3 and length >= len(content) - len(feed(raw)[0].data or b""):
            continue  # a shorter payload is a valid PUBLISH
        if shorter in (subscribe(1, ("a/#", 0)), subscribe(1, ("a/#", 0), ("b", 1))):
            continue  # so are fewer topic filters
        if shorter == unsubscribe(1, "a/#"):
            continue
        refused(shorter)


@pytest.mark.parametrize("raw", SMALL.values(), ids=SMALL)
def test_a_packet_with_junk_behind_is_refused(raw: bytes) -> None:
    if raw[0] >> 4 == 3:
        return  # the payload of a PUBLISH is all that follows
    for junk in (b"\x00", b"\x01", b"\x00\x00", b"\x00\x02a", b"junk"):
        refused(packet(raw[0], body(raw) + junk))


@pytest.mark.parametrize("raw", SMALL.values(), ids=SMALL)
def test_a_packet_waits_for_its_last_byte(raw: bytes) -> None:
    for length in range(len(raw)):
        assert feed(raw[:length]) == []


def test_bytes_one_by_one_give_the_same_packets_as_all_at_once() -> None:
    stream = b"".join(SMALL.values())

    at_once = [found.to_bytes() for found in feed(stream)]
    one_by_one = [found.to_bytes() for found in feed(*(bytes([byte]) for byte in stream))]

    assert at_once == one_by_one == list(SMALL.values())


def test_packets_before_a_bad_one_are_handed_out() -> None:
    found = PacketDecoder().feed(PINGREQ + b"\xc1\x00" + PINGREQ)

    assert next(found).to_bytes() == PINGREQ
    with pytest.raises(ProtocolViolation):
        next(found)


# -- one rule after the other -------------------------------------------------------------------

FLAGS = 9  # where the flags of a CONNECT are


def with_byte(raw: bytes, place: int, value: int) -> bytes:
    return raw[:place] + bytes([value]) + raw[place + 1 :]


VIOLATIONS = {
    "reserved type 0": b"\x00\x00",
    "reserved type 15": b"\xf0\x00",
    "a CONNACK": packets.connack(0),
    "a SUBACK": packets.suback(1, [0]),
    "an UNSUBACK": packets.unsuback(1),
    "a PINGRESP": packets.pingresp(),
    "a PUBREC": packet(0x50, b"\x00\x01"),
    "a PUBREL": packet(0x62, b"\x00\x01"),
    "a PUBCOMP": packet(0x70, b"\x00\x01"),
    "QoS 2": publish("a", b"x", packet_id=1, qos=2),
    "QoS 3": publish("a", b"x", packet_id=1, qos=3),
    "DUP with QoS 0": publish("a", b"x", dup=True),
    "packet id 0 of a PUBLISH": publish("a", packet_id=0),
    "packet id 0 of a PUBACK": puback(0),
    "packet id 0 of a SUBSCRIBE": subscribe(0, ("a", 0)),
    "packet id 0 of an UNSUBSCRIBE": unsubscribe(0, "a"),
    "an empty topic": publish(""),
    "an empty topic filter": subscribe(1, ("", 0)),
    "an empty filter to unsubscribe": unsubscribe(1, ""),
    "an empty will topic": connect("d", will=("", b"")),
    "a wildcard # in a topic": publish("a/#"),
    "a wildcard + in a topic": publish("a/+/b"),
    "U+0000 in a topic": publish("a\x00b"),
    "U+0000 in a topic filter": subscribe(1, ("a\x00b", 0)),
    "U+0000 in a filter of an UNSUBSCRIBE": unsubscribe(1, "a\x00b"),
    "U+0000 in a client id": connect("d\x00"),
    "U+0000 in a username": connect("d", "u\x00"),
    "U+0000 in a password": connect("d", "u", "p\x00"),
    "U+0000 in a will topic": connect("d", will=("t\x00", b"")),
    "bad UTF-8 in a topic": publish(b"a\xff"),
    "a surrogate in a topic": publish(b"a\xed\xa0\x80"),
    "a long topic of bad UTF-8": publish(b"\xff" * 60000),
    "a long client id of bad UTF-8": connect(b"\xff" * 60000),
    "bad UTF-8 in a topic filter": subscribe(1, (b"a\xff", 0)),
    "bad UTF-8 in a filter of an UNSUBSCRIBE": unsubscribe(1, b"a\xff"),
    "bad UTF-8 in a client id": connect(b"d\xff"),
    "bad UTF-8 in a username": connect("d", b"u\xff"),
    "bad UTF-8 in a password": connect("d", "u", b"p\xff"),
    "no topic filter": packet(0x82, b"\x00\x01"),
    "no filter to unsubscribe": packet(0xA2, b"\x00\x01"),
    "QoS 3 in a SUBSCRIBE": subscribe(1, ("a", 3)),
    "reserved bits in a SUBSCRIBE": subscribe(1, ("a", 0x80)),
    "a message too large by a byte": publish("a", b"x" * (MAX_PAYLOAD + 1)),
    "a remaining length that is longer than need be": b"\xc0\x80\x00",
    "an empty CONNECT": packet(0x10, b""),
    "an empty PUBLISH": packet(0x30, b""),
    "the reserved flag of a CONNECT": with_byte(connect("d"), FLAGS, 0xC1),
    "a password without a username": with_byte(connect("d", None, None), FLAGS, 0x40),
    "a will QoS without a will": with_byte(connect("d"), FLAGS, 0xC8),
    "a will retain without a will": with_byte(connect("d"), FLAGS, 0xE0),
    "will QoS 3": with_byte(connect("d", will=("t", b"")), FLAGS, 0xDC),
    "an announced username that is missing": with_byte(connect("d", None, None), FLAGS, 0x80),
    "an announced password that is missing": with_byte(connect("d", "u", None), FLAGS, 0xC0),
    "an announced will that is missing": with_byte(connect("d", None, None), FLAGS, 0x04),
    "a will without message": packet(
        0x10, text("MQTT") + b"\x04\x04\x00\x3c" + text("d") + text("t")
    ),
    "a CONNECT without client id": packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c"),
    "another protocol": connect("d", protocol=("HTTP", 4)),
    "the protocol in lower case": connect("d", protocol=("mqtt", 4)),
}


@pytest.mark.parametrize("raw", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_is_refused(raw: bytes) -> None:
    assert not isinstance(refused(raw), UnsupportedProtocolVersion)


@pytest.mark.parametrize("raw", SMALL.values(), ids=SMALL)
def test_reserved_bits_of_the_first_byte_are_refused(raw: bytes) -> None:
    if raw[0] >> 4 == 3:
        return  # a PUBLISH has no reserved bits
    for flags in range(16):
        if flags != raw[0] & 0x0F:
            refused(with_byte(raw, 0, raw[0] & 0xF0 | flags))


@pytest.mark.parametrize("protocol", [("MQIsdp", 3), ("MQTT", 5), ("MQTT", 3), ("MQTT", 0x84)])
def test_another_version_of_mqtt_is_told_apart(protocol: tuple[str, int]) -> None:
    assert isinstance(refused(connect("d1", protocol=protocol)), UnsupportedProtocolVersion)


def test_another_version_of_mqtt_is_told_apart_whatever_follows() -> None:
    # MQTT 5 has properties where 3.1.1 has the client id.
    raw = packet(0x10, text("MQTT") + b"\x05\x02\x00\x3c\x05\x11\x00\x00\x00\x0a\x00\x00")
    assert isinstance(refused(raw), UnsupportedProtocolVersion)


# -- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0x30, 0x32, 0x10, 0x82, 0xC0])
def test_a_packet_too_large_is_refused_before_it_arrives(first: int) -> None:
    refused(bytes([first]) + b"\xff\xff\xff\x7f")


def test_a_remaining_length_of_five_bytes_is_refused() -> None:
    refused(b"\x30\x80\x80\x80\x80\x01")
    assert feed(b"\x30\x80\x80\x80") == []


def test_the_decoder_holds_one_unfinished_packet_at_most() -> None:
    decoder = PacketDecoder()
    message = publish("a", b"x" * 1000)
    tracemalloc.start()
    try:
        for _ in range(2000):
            assert len(list(decoder.feed(message))) == 1
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


# -- noise --------------------------------------------------------------------------------------


def test_random_bytes_only_ever_raise_a_violation() -> None:
    rng = random.Random(311)
    for _ in range(4000):
        first = rng.choice([0x10, 0x30, 0x32, 0x3B, 0x40, 0x82, 0xA2, 0xC0, rng.randrange(256)])
        raw = packet(first, rng.randbytes(rng.choice([0, 1, 2, 3, 5, 12, 40])))
        try:
            decoded = decode(raw)
        except ProtocolViolation:
            continue
        assert decoded.to_bytes() == raw


def test_flipped_bits_only_ever_raise_a_violation() -> None:
    rng = random.Random(8883)
    samples = list(SMALL.values())
    accepted = 0
    for _ in range(8000):
        raw = bytearray(rng.choice(samples))
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        try:
            accepted += len(feed(bytes(raw)))
        except ProtocolViolation:
            continue
    assert accepted, "some flips, as in a payload, leave a packet valid"


# -- what the hub sends -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (packets.connack(0), b"\x20\x02\x00\x00"),
        (packets.connack(0, session_present=True), b"\x20\x02\x01\x00"),
        (packets.connack(5), b"\x20\x02\x00\x05"),
        (packets.publish("a/b", b"x"), publish("a/b", b"x")),
        (packets.publish("a/b", b"x", packet_id=9), publish("a/b", b"x", packet_id=9)),
        (
            packets.publish("a/b", b"x", packet_id=9, dup=True),
            publish("a/b", b"x", packet_id=9, dup=True),
        ),
        (packets.puback(258), puback(258)),
        (packets.suback(3, [0, 1, 0x80]), b"\x90\x05\x00\x03\x00\x01\x80"),
        (packets.unsuback(3), b"\xb0\x02\x00\x03"),
        (packets.pingresp(), b"\xd0\x00"),
    ],
)
def test_the_hub_writes_packets_of_mqtt_311(written: bytes, expected: bytes) -> None:
    assert written == expected
