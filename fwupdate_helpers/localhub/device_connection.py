"""One device's MQTT 3.1.1 connection over TLS, with IoT Hub's topics.

Handlers are plain functions: the database answers in well under a millisecond, so nothing here
waits, and what one packet causes is done before the next one is read.
Source: Microsoft's "Communicate with an IoT hub using the MQTT protocol"
(iot-mqtt-connect-to-iot-hub.md); traps of the SDK as measured with azure-iot-device 2.14.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final, cast

from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.pingreq import PingReqPacket
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from fwupdate_helpers.localhub import packets
from fwupdate_helpers.localhub.authentication import ConnectionRefused
from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.fault_wire import KEPT_OFF, Report
from fwupdate_helpers.localhub.jsontext import dumps, loads_object
from fwupdate_helpers.localhub.packets import ProtocolViolation
from fwupdate_helpers.localhub.tiers import Operation
from fwupdate_helpers.localhub.twins import patch_reported

if TYPE_CHECKING:
    from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint, Session

logger = logging.getLogger(__name__)

Json = dict[str, Any]

CONNECT_TIMEOUT: Final = 10.0
"""Seconds from the TLS handshake to the CONNECT packet."""
MAX_SILENCE: Final = 1767.0
"""The longest keep-alive time-out, in seconds; shorter ones are 1.5 times the client's value."""
MAX_UNSENT: Final = 1024 * 1024
"""Bytes that may wait for a client that does not read; one more ends its connection."""
MAX_REQUEST_ID: Final = 1024
_REFUSED: Final = 0x80
_UNAVAILABLE: Final = 3
"""The CONNACK code after which clients come back later; Azure's own is not documented."""

DESIRED_TOPIC: Final = "$iothub/twin/PATCH/properties/desired/"
METHODS_TOPIC: Final = "$iothub/methods/POST/"
TWIN_REPLY_TOPIC: Final = "$iothub/twin/res/"
_METHOD_ANSWER: Final = "$iothub/methods/res/"
_TWIN_GET: Final = "$iothub/twin/GET/"
_TWIN_PATCH: Final = "$iothub/twin/PATCH/properties/reported/"


class _OverLimit(Exception):
    """The hub's tier grants no more; MQTT 3.1.1 has no way to say so but to hang up."""


class DeviceConnection(asyncio.Protocol):
    """One MQTT connection. A bad packet ends it, and no other."""

    def __init__(self, endpoint: DeviceEndpoint) -> None:
        self.device_id = ""
        self.clean = False
        self.session: Session | None = None
        self._endpoint = endpoint
        self._store = endpoint.store
        self._throttle = endpoint.throttle
        self._decoder = packets.PacketDecoder()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._silence_allowed = CONNECT_TIMEOUT
        self._heard_at = time.monotonic()
        self._timers: list[asyncio.TimerHandle] = []
        self._is_open = False  # from CONNACK to the end
        self._has_will = False
        self.trace = endpoint.new_trace()

    # -- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the CONNECT packet."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT)
        self._endpoint.opened(self)
        self._check_silence()

    def data_received(self, data: bytes) -> None:
        """Handle what came in; errors end this connection."""
        try:
            for packet in self._decoder.feed(data):
                if self._transport is None:
                    return
                self._heard_at = time.monotonic()
                self._handle(packet)
        except packets.UnsupportedProtocolVersion as error:
            self.write(packets.connack(1))
            self.close(str(error))
        except (ProtocolViolation, _OverLimit) as error:
            self.close(str(error))
        except Exception:
            logger.exception("device %r: a packet could not be handled", self.device_id)
            self.close("the hub failed")

    def pause_writing(self) -> None:
        """Give up on a client that does not read."""
        if self._transport is not None:
            transport = self._transport
            self.close("the client does not read")
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Tidy up; a will is sent when the client did not say goodbye."""
        self._transport = None
        for timer in self._timers:
            timer.cancel()
        if self._has_will and self.session is not None:
            self._store.count_telemetry(self.device_id)
        if self._is_open:
            self._ended("the connection was lost", from_device=True)
        self._endpoint.closed(self)

    # -- writing and ending -------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection has ended."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self, reason: str) -> None:
        """End the connection after what was written has gone out."""
        transport, self._transport = self._transport, None
        if transport is not None:
            logger.info("device %r: connection ends: %s", self.device_id, reason)
            self._ended(reason, from_device=False)
            transport.close()
            self._endpoint.closed(self)

    def _ended(self, reason: str, *, from_device: bool) -> None:
        if self._is_open:
            self.trace.packet("CLOSE", from_device=from_device, reason=reason)
        self._is_open = False

    def _check_silence(self) -> None:
        silence = time.monotonic() - self._heard_at
        if silence >= self._silence_allowed:
            self.close(f"silent for {silence:.0f} s")
            return
        rest = self._silence_allowed - silence
        self._timers[:1] = [self._loop.call_later(rest, self._check_silence)]

    # -- packets ------------------------------------------------------------------------------

    def _handle(self, packet: packets.Packet) -> None:
        if isinstance(packet, ConnectPacket):
            self._on_connect(packet)
        elif self.session is None:
            raise ProtocolViolation("the first packet is not a CONNECT [3.1.0-1]")
        elif isinstance(packet, PublishPacket):
            self._on_publish(packet)
        elif isinstance(packet, PubackPacket):
            self.session.unacknowledged.pop(packet.packet_id, None)
            self.trace.acknowledged_by_device(packet.packet_id)
        elif isinstance(packet, SubscribePacket):
            self._on_subscribe(packet, self.session)
        elif isinstance(packet, UnsubscribePacket):
            self._on_unsubscribe(packet, self.session)
        elif isinstance(packet, PingReqPacket):
            self.write(packets.pingresp())
        elif isinstance(packet, DisconnectPacket):
            self._has_will = False
            self.trace.packet("DISCONNECT", from_device=True)
            self._is_open = False
            self.close("the client disconnected")

    def _on_connect(self, packet: ConnectPacket) -> None:
        if self.session is not None:
            raise ProtocolViolation("a second CONNECT [3.1.0-2]")
        header, payload = packet.variable_header, packet.payload
        if header is None or payload is None:
            raise ProtocolViolation("a CONNECT without a payload")
        self.device_id = self.trace.device_id = payload.client_id or ""
        self.trace.packet("CONNECT", from_device=True)
        try:
            expiry = self._endpoint.authenticator.check_device(
                self.device_id, payload.username, payload.password
            )
            self._check_limits()
        except ConnectionRefused as error:
            self.trace.packet("CONNACK", from_device=False, status=error.return_code)
            self.write(packets.connack(error.return_code))
            self.close(f"refused: {error}")
            return
        if self._endpoint.faults.book.keeps_off(self.device_id):
            self.trace.packet("CLOSE", from_device=False, reason=KEPT_OFF)
            self.close(KEPT_OFF)
            return
        if header.will_flag:
            self._check_events_topic(payload.will_topic or "")
            self._has_will = True
        self.clean = header.clean_session_flag
        self._accept(header.keep_alive, expiry)

    def _check_limits(self) -> None:
        try:
            # "The hub is supposed to prevent you from connecting" (azure-iot-sdk-java #377).
            self._throttle.check_quota()
            self._throttle.admit(Operation.CONNECT)
        except HubError as error:
            raise ConnectionRefused(_UNAVAILABLE, error.message) from error

    def _accept(self, keep_alive: int, expiry: float) -> None:
        present = self._endpoint.attach(self, clean=self.clean)
        self._silence_allowed = min(keep_alive * 1.5, MAX_SILENCE) if keep_alive else MAX_SILENCE
        self._timers[0].cancel()
        self._check_silence()
        left = expiry - self._endpoint.clock().timestamp()
        # call_later overflows for a token that is good for centuries.
        self._timers.append(
            self._loop.call_later(min(left, 10**8), self.close, "the token has expired")
        )
        logger.info("device %r: connected", self.device_id)
        self._is_open = True
        self.trace.packet("CONNACK", from_device=False, status=0)
        self.write(packets.connack(0, session_present=present))
        if self.session is not None:
            for packet_id, (topic, content) in self.session.unacknowledged.items():
                self.trace.sent(topic, content, packet_id=packet_id)
                self.write(packets.publish(topic, content, packet_id=packet_id, dup=True))

    def _on_subscribe(self, packet: SubscribePacket, session: Session) -> None:
        known = {
            DESIRED_TOPIC + "#",
            METHODS_TOPIC + "#",
            TWIN_REPLY_TOPIC + "#",
            f"devices/{self.device_id}/messages/devicebound/#",
        }
        granted = []
        for topic, qos in packet.payload.topics if packet.payload else []:
            granted.append(min(qos, 1) if topic in known else _REFUSED)
            if topic in known:
                session.subscriptions[topic] = min(qos, 1)
            self.trace.packet("SUBSCRIBE", topic, from_device=True)
        self._keep_session(session)
        refused = _REFUSED if _REFUSED in granted else None
        self.trace.packet("SUBACK", from_device=False, status=refused)
        self.write(packets.suback(packet.variable_header.packet_id, granted))  # type: ignore[union-attr]
        session.refresh()

    def _on_unsubscribe(self, packet: UnsubscribePacket, session: Session) -> None:
        for topic in packet.payload.topics if packet.payload else []:
            session.subscriptions.pop(topic, None)
            self.trace.packet("UNSUBSCRIBE", topic, from_device=True)
        self._keep_session(session)
        session.refresh()
        self.write(packets.unsuback(packet.variable_header.packet_id))  # type: ignore[union-attr]

    def _keep_session(self, session: Session) -> None:
        if not self.clean:
            self._store.save_session(self.device_id, session.subscriptions)

    def _on_publish(self, packet: PublishPacket) -> None:
        topic, payload = packet.topic_name or "", packet.data or b""
        path, _, query = topic.partition("?")
        number = self.trace.received(topic, payload)
        report, wait = Report(), 0.0
        if self._throttle.is_used_up and not path.startswith(_METHOD_ANSWER):
            raise _OverLimit("the hub's messages of the day are used up")
        if path == _TWIN_GET:
            self._on_twin_get(_read_query(query))
        elif path == _TWIN_PATCH:
            report = self._on_twin_patch(_read_query(query), payload)
        elif path.startswith(_METHOD_ANSWER):
            self._on_method_answer(path, _read_query(query), payload)
        else:
            wait = self._on_telemetry(topic, payload)
        if packet.qos and packet.packet_id and report.acknowledged:
            # After the reply: a twin request that is acknowledged and never answered would hang
            # the SDK's call for ever, because only unacknowledged requests are sent again.
            self._acknowledge(packet.packet_id, number, wait)

    def _on_telemetry(self, topic: str, payload: bytes) -> float:
        """Take a device-to-cloud message; return the seconds after which it is acknowledged."""
        self._check_events_topic(topic)
        wait = self._throttle.turn(Operation.TELEMETRY)
        if wait is None:  # as Azure does after 429002 (azure-docs issue #107838)
            raise _OverLimit("too many messages of devices wait for their turn")
        self._throttle.charge(len(topic) + len(payload))
        self._store.count_telemetry(self.device_id)
        return wait

    def _acknowledge(self, packet_id: int, number: int | None, wait: float) -> None:
        if wait > 0:  # whoever sends too fast learns it from acknowledgements that come late
            self._loop.call_later(wait, self._acknowledge, packet_id, number, 0.0)
            return
        self.trace.acknowledged_by_hub(number)
        self.write(packets.puback(packet_id))

    def _check_events_topic(self, topic: str) -> None:
        if not f"{topic}/".startswith(f"devices/{self.device_id}/messages/events/"):
            raise ProtocolViolation("a topic that IoT Hub does not have")

    def _on_twin_get(self, query: dict[str, str]) -> None:
        try:
            self._throttle.admit(Operation.TWIN_READ)
        except HubError as error:
            self._refuse(error, query)
            return
        twin = self._store.twin(self.device_id)
        content = {"desired": twin.desired.for_device(), "reported": twin.reported.for_device()}
        body = dumps(content)
        self._throttle.charge(len(body))
        self._reply(200, query, body)

    def _on_twin_patch(self, query: dict[str, str], payload: bytes) -> Report:
        try:
            self._throttle.admit(Operation.TWIN_UPDATE)
            patch = loads_object(payload)
            twin = patch_reported(self._store.twin(self.device_id), patch, self._store.now())
        except HubError as error:
            self._refuse(error, query)
            return Report()
        self._throttle.charge(len(payload))
        self._store.save_twin(self.device_id, twin, by_device=True)
        report = self._endpoint.faults.reported(self.device_id, patch, self.close)
        if report.answered:
            self._reply(204, query, "", version=twin.reported.version)
        return report

    def _refuse(self, error: HubError, query: dict[str, str]) -> None:
        self._reply(error.status, query, dumps({"errorCode": error.code, "message": error.message}))

    def _reply(
        self, status: int, query: dict[str, str], body: str, version: int | None = None
    ) -> None:
        # Sent without a look at the subscriptions: the SDK asks for the twin on every connect
        # and does not always subscribe to the reply.
        suffix = "" if version is None else f"&$version={version}"
        request_id = query.get("$rid", "")
        if len(request_id) > MAX_REQUEST_ID:
            raise ProtocolViolation("a request id that is too long to send back")
        topic = f"{TWIN_REPLY_TOPIC}{status}/?$rid={request_id}{suffix}"
        self.trace.sent(topic, body.encode())
        self.write(packets.publish(topic, body.encode()))

    def _on_method_answer(self, path: str, query: dict[str, str], payload: bytes) -> None:
        status = path[len(_METHOD_ANSWER) :].rstrip("/")
        if not re.fullmatch(r"-?[0-9]{1,10}", status):
            raise ProtocolViolation("a method answer without a status")
        self._endpoint.take_method_answer(
            self.device_id, query.get("$rid", ""), int(status), payload
        )


def _read_query(query: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in query.split("&"))
    return {name: value for name, _, value in pairs}
