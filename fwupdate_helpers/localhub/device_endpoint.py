"""The device endpoint: which device is connected, what it subscribed to, and what goes to it.

All devices subscribe to the same topics, so what the hub sends is routed by connection, not by
topic.
Source: Microsoft's "Communicate with an IoT hub using the MQTT protocol"
(iot-mqtt-connect-to-iot-hub.md); traps of the SDK as measured with azure-iot-device 2.14.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final

from fwupdate_helpers.localhub import packets
from fwupdate_helpers.localhub.authentication import Authenticator
from fwupdate_helpers.localhub.device_connection import (
    DESIRED_TOPIC,
    METHODS_TOPIC,
    DeviceConnection,
)
from fwupdate_helpers.localhub.fault_wire import WireFaults
from fwupdate_helpers.localhub.jsontext import dumps
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.mqtt_trace import MqttTrace
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.throttle import Throttle
from fwupdate_helpers.localhub.wiretrace import WireTrace

Json = dict[str, Any]

MAX_UNACKNOWLEDGED: Final = 100
"""Desired changes that a device may leave unacknowledged; one more ends its connection."""


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
    """All device connections of the hub.

    Attributes:
        throttle: The limits of the hub's tier.
    """

    def __init__(
        self,
        store: Store,
        authenticator: Authenticator,
        methods: DirectMethods,
        clock: Callable[[], datetime],
        trace: WireTrace,
        faults: WireFaults,
        throttle: Throttle | None = None,
    ) -> None:
        self.store = store
        self.throttle = throttle or Throttle(None, store.database, clock)
        self.authenticator = authenticator
        self.methods = methods
        self.clock = clock
        self.faults = faults
        self._sessions = {
            device_id: Session(subscriptions)
            for device_id, subscriptions in store.sessions().items()
        }
        self._connections: set[DeviceConnection] = set()
        self._trace = trace

    def new_connection(self) -> DeviceConnection:
        """Return the protocol object for a socket that was just accepted."""
        return DeviceConnection(self)

    def new_trace(self) -> MqttTrace:
        """Return what tells the wire trace of one connection."""
        return MqttTrace(self._trace)

    @property
    def connected_count(self) -> int:
        """How many devices are connected."""
        return sum(session.connection is not None for session in self._sessions.values())

    def close(self) -> None:
        """End every connection."""
        for connection in list(self._connections):
            connection.close("the hub stops")

    def is_connected(self, device_id: str) -> bool:
        """Tell whether a device is connected."""
        session = self._sessions.get(device_id)
        return session is not None and session.connection is not None

    def disconnect(self, device_id: str, reason: str) -> None:
        """End a device's connection, if it has one."""
        session = self._sessions.get(device_id)
        if session is not None and session.connection is not None:
            session.connection.close(reason)

    def forget(self, device_id: str) -> None:
        """End a deleted device's connection and drop its session."""
        self.disconnect(device_id, "the device identity was deleted")
        session = self._sessions.pop(device_id, None)
        if session is not None:
            session.takes_methods.set()  # whoever waits for it waits in vain
        self.faults.book.forget(device_id)

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
        session.connection.trace.sent(topic, payload, packet_id=packet_id)
        session.connection.write(packets.publish(topic, payload, packet_id=packet_id))

    def send_method(self, device_id: str, name: str, request_id: str, payload: bytes) -> bool:
        """Send a direct method; False when the device is offline or takes no methods."""
        session = self._sessions.get(device_id)
        if session is None or session.connection is None or not session.takes_methods.is_set():
            return False
        topic = f"{METHODS_TOPIC}{name}/?$rid={request_id}"
        session.connection.trace.sent(topic, payload)
        session.connection.write(packets.publish(topic, payload))
        return True

    def takes_methods(self, device_id: str) -> bool:
        """Tell whether a device is online and takes methods."""
        session = self._sessions.get(device_id)
        return session is not None and session.takes_methods.is_set()

    async def wait_for_methods(self, device_id: str, seconds: float) -> bool:
        """Wait until a device is online and takes methods; False when it is not in that time.

        True also when the device is deleted meanwhile.
        """
        session = self._sessions.setdefault(device_id, Session())
        if session.takes_methods.is_set() or not seconds:
            return session.takes_methods.is_set()
        try:
            await asyncio.wait_for(session.takes_methods.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    # -- for connections ----------------------------------------------------------------------

    def take_method_answer(
        self, device_id: str, request_id: str, status: int, payload: bytes
    ) -> None:
        """Pass a device's answer on to the service that waits for it."""
        if self.methods.waits_for(device_id, request_id):
            deliver = partial(self.methods.answer, device_id, request_id, status, payload)
            self.faults.method_answered(device_id, deliver)

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
