"""The device endpoint: MQTT 3.1.1 over TLS, with IoT Hub's topics.

All devices subscribe to the same topics, so what the hub sends is routed by connection, not by
topic. Handlers are plain functions: the database answers in well under a millisecond, so nothing
here waits, and what one packet causes is done before the next one is read.
Source: Microsoft's "Communicate with an IoT hub using the MQTT protocol"
(iot-mqtt-connect-to-iot-hub.md); traps of the SDK as measured with azure-iot-device 2.14.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, cast

from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.pingreq import PingReqPacket
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from fwupdate_helpers.localhub import packets
from fwupdate_helpers.localhub.authentication import Authenticator, ConnectionRefused
from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.jsontext import dumps, loads_object
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.packets import ProtocolViolation
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.twins import patch_reported

logger = logging.getLogger(__name__)

Json = dict[str, Any]

CONNECT_TIMEOUT: Final = 10.0
"""Seconds from the TLS handshake to the CONNECT packet."""
MAX_SILENCE: Final = 1767.0
"""The longest keep-alive time-out, in seconds; shorter ones are 1.5 times the client's value."""
MAX_UNSENT: Final = 1024 * 1024
"""Bytes that may wait for a client that does not read; one more ends its connection."""
MAX_UNACKNOWLEDGED: Final = 100
"""Desired changes that a device may leave unacknowledged; one more ends its connection."""
MAX_REQUEST_ID: Final = 1024
_REFUSED: Final = 0x80

DESIRED_TOPIC: Final = "$iothub/twin/PATCH/properties/desired/"
METHODS_TOPIC: Final = "$iothub/methods/POST/"
TWIN_REPLY_TOPIC: Final = "$iothub/twin/res/"
_METHOD_ANSWER: Final = "$iothub/methods/res/"
_TWIN_GET: Final = "$iothub/twin/GET/"
_TWIN_PATCH: Final = "$iothub/twin/PATCH/properties/reported/"


class Session:
    """What the hub keeps for a device between connections.

    Attributes:
        subscriptions: Topic filter to granted QoS.
        kept: Whether it outlives the connection (a CONNECT without CleanSession).
        unacknowledged: PUBLISH packets of QoS 1 by packet id: topic and payload.
    """

    def __init__(self, subscriptions: dict[str, int] | None = None) -> None:
        self.subscriptions = subscriptions or {}
        self.kept = subscriptions is not None
        self.unacknowledged: dict[int, tuple[str, bytes]] = {}
        self.connection: DeviceConnection | None = None
        self.takes_methods = asyncio.Event()
        self._last_packet_id = 0

    def next_packet_id(self) -> int:
        """Return a packet id that no unacknowledged packet has."""
        self._last_packet_id = self._last_packet_id % 65535 + 1
        while self._last_packet_id in self.unacknowledged:
            self._last_packet_id = self._last_packet_id % 65535 + 1
        return self._last_packet_id

    def refresh(self) -> None:
        """Wake those who wait for the device when it is there and takes methods."""
        if self.connection is not None and METHODS_TOPIC + "#" in self.subscriptions:
            self.takes_methods.set()
        else:
            self.takes_methods.clear()


class DeviceEndpoint:
    """All device connections of the hub."""

    def __init__(
        self,
        store: Store,
        authenticator: Authenticator,
        methods: DirectMethods,
        clock: Callable[[], datetime],
    ) -> None:
        self.store = store
        self.authenticator = authenticator
        self.methods = methods
        self.clock = clock
        self._sessions = {
            device_id: Session(subscriptions)
            for device_id, subscriptions in store.sessions().items()
        }
        self._connections: set[DeviceConnection] = set()

    def new_connection(self) -> DeviceConnection:
        """Return the protocol object for a socket that was just accepted."""
        return DeviceConnection(self)

    @property
    def connected_count(self) -> int:
        """How many devices are connected."""
        return sum(session.connection is not None for session in self._sessions.values())

    def close(self) -> None:
        """End every connection."""
        for connection in list(self._connections):
            connection.close("the hub stops")

    def disconnect(self, device_id: str, reason: str) -> None:
        """End a device's connection, if it has one."""
        session = self._sessions.get(device_id)
        if session is not None and session.connection is not None:
            session.connection.close(reason)

    def forget(self, device_id: str) -> None:
        """End a deleted device's connection and drop its session."""
        self.disconnect(device_id, "the device identity was deleted")
        self._sessions.pop(device_id, None)

    # -- towards devices ----------------------------------------------------------------------

    def send_desired(self, device_id: str, patch: Json, version: int) -> None:
        """Tell a device of a change of its desired properties; an offline one is told nothing."""
        session = self._sessions.get(device_id)
        qos = (session.subscriptions if session else {}).get(DESIRED_TOPIC + "#")
        if session is None or session.connection is None or qos is None:
            return
        topic = f"{DESIRED_TOPIC}?$version={version}"
        payload = dumps({**patch, "$version": version}).encode()
        if len(session.unacknowledged) >= MAX_UNACKNOWLEDGED:
            session.connection.close("it acknowledges nothing")
            return
        packet_id = session.next_packet_id() if qos else None
        if packet_id is not None:
            session.unacknowledged[packet_id] = (topic, payload)
        session.connection.write(packets.publish(topic, payload, packet_id=packet_id))

    def send_method(self, device_id: str, name: str, request_id: str, payload: bytes) -> bool:
        """Send a direct method; False when the device is offline or takes no methods."""
        session = self._sessions.get(device_id)
        if session is None or session.connection is None or not session.takes_methods.is_set():
            return False
        topic = f"{METHODS_TOPIC}{name}/?$rid={request_id}"
        session.connection.write(packets.publish(topic, payload))
        return True

    async def wait_for_methods(self, device_id: str, seconds: float) -> bool:
        """Wait until a device is online and takes methods; False when it is not in that time."""
        session = self._sessions.setdefault(device_id, Session())
        if session.takes_methods.is_set() or not seconds:
            return session.takes_methods.is_set()
        try:
            await asyncio.wait_for(session.takes_methods.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    # -- for connections ----------------------------------------------------------------------

    def opened(self, connection: DeviceConnection) -> None:
        """Note a new socket."""
        self._connections.add(connection)

    def attach(self, connection: DeviceConnection, *, clean: bool) -> bool:
        """Make a connection the device's own; return whether a session was there already."""
        device_id = connection.device_id
        session = self._sessions.setdefault(device_id, Session())
        if session.connection is not None:
            session.connection.close("the device connected again")
        if clean:
            session.subscriptions.clear()
            session.unacknowledged.clear()
            self.store.delete_session(device_id)
        elif not session.kept:
            self.store.save_session(device_id, {})
        present, session.kept = session.kept and not clean, not clean
        session.connection = connection
        session.refresh()
        connection.session = session
        self.store.set_connected(device_id, True)
        return present

    def closed(self, connection: DeviceConnection) -> None:
        """Note the end of a socket."""
        self._connections.discard(connection)
        session = connection.session
        if session is None or session.connection is not connection:
            return
        session.connection = None
        if connection.clean:
            session.subscriptions.clear()
            session.unacknowledged.clear()
        session.refresh()
        self.store.set_connected(connection.device_id, False)


class DeviceConnection(asyncio.Protocol):
    """One MQTT connection. A bad packet ends it, and no other."""

    def __init__(self, endpoint: DeviceEndpoint) -> None:
        self.device_id = ""
        self.clean = False
        self.session: Session | None = None
        self._endpoint = endpoint
        self._store = endpoint.store
        self._decoder = packets.PacketDecoder()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._silence_allowed = CONNECT_TIMEOUT
        self._heard_at = time.monotonic()
        self._timers: list[asyncio.TimerHandle] = []
        self._has_will = False

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
        except ProtocolViolation as error:
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
            transport.close()
            self._endpoint.closed(self)

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
        elif isinstance(packet, SubscribePacket):
            self._on_subscribe(packet, self.session)
        elif isinstance(packet, UnsubscribePacket):
            self._on_unsubscribe(packet, self.session)
        elif isinstance(packet, PingReqPacket):
            self.write(packets.pingresp())
        elif isinstance(packet, DisconnectPacket):
            self._has_will = False
            self.close("the client disconnected")

    def _on_connect(self, packet: ConnectPacket) -> None:
        if self.session is not None:
            raise ProtocolViolation("a second CONNECT [3.1.0-2]")
        header, payload = packet.variable_header, packet.payload
        if header is None or payload is None:
            raise ProtocolViolation("a CONNECT without a payload")
        self.device_id = payload.client_id or ""
        try:
            expiry = self._endpoint.authenticator.check_device(
                self.device_id, payload.username, payload.password
            )
        except ConnectionRefused as error:
            self.write(packets.connack(error.return_code))
            self.close(f"refused: {error}")
            return
        if header.will_flag:
            self._check_events_topic(payload.will_topic or "")
            self._has_will = True
        self.clean = header.clean_session_flag
        self._accept(header.keep_alive, expiry)

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
        self.write(packets.connack(0, session_present=present))
        if self.session is not None:
            for packet_id, (topic, content) in self.session.unacknowledged.items():
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
        self._keep_session(session)
        self.write(packets.suback(packet.variable_header.packet_id, granted))  # type: ignore[union-attr]
        session.refresh()

    def _on_unsubscribe(self, packet: UnsubscribePacket, session: Session) -> None:
        for topic in packet.payload.topics if packet.payload else []:
            session.subscriptions.pop(topic, None)
        self._keep_session(session)
        session.refresh()
        self.write(packets.unsuback(packet.variable_header.packet_id))  # type: ignore[union-attr]

    def _keep_session(self, session: Session) -> None:
        if not self.clean:
            self._store.save_session(self.device_id, session.subscriptions)

    def _on_publish(self, packet: PublishPacket) -> None:
        topic, payload = packet.topic_name or "", packet.data or b""
        path, _, query = topic.partition("?")
        if path == _TWIN_GET:
            self._on_twin_get(_read_query(query))
        elif path == _TWIN_PATCH:
            self._on_twin_patch(_read_query(query), payload)
        elif path.startswith(_METHOD_ANSWER):
            self._on_method_answer(path, _read_query(query), payload)
        else:
            self._check_events_topic(topic)
            self._store.count_telemetry(self.device_id)
        if packet.qos and packet.packet_id:
            # After the reply: a twin request that is acknowledged and never answered would hang
            # the SDK's call for ever, because only unacknowledged requests are sent again.
            self.write(packets.puback(packet.packet_id))

    def _check_events_topic(self, topic: str) -> None:
        if not f"{topic}/".startswith(f"devices/{self.device_id}/messages/events/"):
            raise ProtocolViolation("a topic that IoT Hub does not have")

    def _on_twin_get(self, query: dict[str, str]) -> None:
        twin = self._store.twin(self.device_id)
        content = {"desired": twin.desired.for_device(), "reported": twin.reported.for_device()}
        self._reply(200, query, dumps(content))

    def _on_twin_patch(self, query: dict[str, str], payload: bytes) -> None:
        try:
            patch = loads_object(payload)
            twin = patch_reported(self._store.twin(self.device_id), patch, self._store.now())
        except HubError as error:
            body = {"errorCode": error.code, "message": error.message}
            self._reply(error.status, query, dumps(body))
            return
        self._store.save_twin(self.device_id, twin, by_device=True)
        self._reply(204, query, "", version=twin.reported.version)

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
        self.write(packets.publish(topic, body.encode()))

    def _on_method_answer(self, path: str, query: dict[str, str], payload: bytes) -> None:
        status = path[len(_METHOD_ANSWER) :].rstrip("/")
        if not re.fullmatch(r"-?[0-9]{1,10}", status):
            raise ProtocolViolation("a method answer without a status")
        self._endpoint.methods.answer(self.device_id, query.get("$rid", ""), int(status), payload)


def _read_query(query: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in query.split("&"))
    return {name: value for name, _, value in pairs}
