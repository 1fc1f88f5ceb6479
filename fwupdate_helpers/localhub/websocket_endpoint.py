"""MQTT over WebSockets: the way into the device endpoint that passes firewalls, on port 443.

What a device says and hears is the same as over TCP: here are only the frames around it.
Source: path, port and subprotocol as azure-iot-device 2.14 asks for them, and Microsoft's
"Communicate with an IoT hub using the MQTT protocol" (iot-mqtt-connect-to-iot-hub.md); the frames:
MQTT Version 3.1.1 (OASIS Standard), section 6, numbers in brackets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import WSMsgType, web

from fwupdate_helpers.localhub.device_connection import DeviceConnection
from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError

WEBSOCKET_ROUTE: Final = "/$iothub/websocket"
SUBPROTOCOL: Final = "mqtt"
MAX_MESSAGE: Final = 1024 * 1024
"""Bytes of a WebSocket message; one may hold several MQTT packets, or a part of one [6.0.0-2]."""
_CLOSE_SECONDS: Final = 10.0
"""How long the end of a connection may wait for a client that does not read."""


class WebSocketEndpoint:
    """The route that a device opens its WebSocket at.

    Args:
        new_connection: Returns the protocol object for a connection that was just accepted.
    """

    def __init__(self, new_connection: Callable[[], DeviceConnection]) -> None:
        self._new_connection = new_connection

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the route; who comes proves who he is with his CONNECT, as over TCP."""
        router.add_route("GET", WEBSOCKET_ROUTE, self._serve)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), compress=False, max_msg_size=MAX_MESSAGE, timeout=1.0
        )
        if socket.can_prepare(request).protocol != SUBPROTOCOL:
            raise HubError(
                ARGUMENT_INVALID, f"Here is MQTT over WebSockets, subprotocol '{SUBPROTOCOL}'."
            )
        await socket.prepare(request)
        connection = self._new_connection()
        transport = WebSocketTransport(socket, request, connection)
        connection.connection_made(transport)
        sending = asyncio.create_task(transport.send(), name="websocket")
        try:
            await _receive(socket, connection, transport)
        finally:
            transport.close()
            connection.connection_lost(None)
            await asyncio.wait([sending])
        return socket


async def _receive(
    socket: web.WebSocketResponse, connection: DeviceConnection, transport: WebSocketTransport
) -> None:
    """Hand on what comes, until the end of the connection."""
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            connection.data_received(message.data)
            if transport.get_write_buffer_size():  # answers go out before more is read
                await asyncio.sleep(0)
        elif message.type is WSMsgType.TEXT:
            connection.close("a WebSocket frame that is not binary [6.0.0-1]")


class WebSocketTransport(asyncio.Transport):
    """A WebSocket as the transport of a device's connection: each write is a binary frame.

    Args:
        socket: Where to send.
        request: What opened it.
        connection: Is told when too much waits for the client.
    """

    def __init__(
        self, socket: web.WebSocketResponse, request: web.Request, connection: asyncio.Protocol
    ) -> None:
        super().__init__()
        self._socket = socket
        self._request = request
        self._connection = connection
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._unsent = self._limit = 0
        self._is_closing = False
        self._patience: asyncio.TimerHandle | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set how many bytes may wait for the client."""
        self._limit = high or 0

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the client."""
        return self._unsent

    def is_closing(self) -> bool:
        """Tell whether nothing more can be written."""
        return self._is_closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes as soon as the client takes them."""
        if self._is_closing:
            return
        self._unsent += len(data)
        self._waiting.put_nowait(bytes(data))
        if self._unsent > self._limit:
            self._connection.pause_writing()

    def close(self) -> None:
        """End the connection when all is sent, with a farewell."""
        if not self._is_closing:
            self._is_closing = True
            self._waiting.put_nowait(b"")
            self._patience = asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        """End the connection now."""
        self.close()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def send(self) -> None:
        """Send what is written, until the end."""
        while data := await self._waiting.get():
            with suppress(ConnectionError):  # it is lost, which the receiving side finds out
                await self._socket.send_bytes(data)
            self._unsent -= len(data)
        await self._socket.close()
        if self._patience is not None:
            self._patience.cancel()
