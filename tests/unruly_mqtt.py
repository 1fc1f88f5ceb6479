"""A way to the local hub's MQTT port that loses packets and connections as asked."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwupdate_helpers.localhub.statedir import StateDir
from fwupdate_helpers.localhub.tls import ensure_certificates, server_context
from tests.raw_mqtt import PUBLISH, Received
from tests.support import HubProcess, free_loopback_address


@dataclass
class Loss:
    """Packets that get lost.

    Attributes:
        kind: The packet type, for example `PUBLISH`.
        topic: How the topic of a PUBLISH begins.
        from_device: Whether it is a packet of the device.
        times: How many get lost.
        cut: Whether the connection is lost with it.
        lost: How many were lost so far.
    """

    kind: int
    topic: str = ""
    from_device: bool = False
    times: int = 1
    cut: bool = False
    lost: int = 0

    def takes(self, packet: Received, *, from_device: bool) -> bool:
        """Tell whether this packet gets lost, and count it."""
        fits = packet.kind == self.kind and from_device == self.from_device
        if not fits or self.lost >= self.times:
            return False
        if packet.kind == PUBLISH and not packet.topic.startswith(self.topic):
            return False
        self.lost += 1
        return True


class UnrulyMqtt:
    """A TLS server between a device and its hub.

    Attributes:
        losses: What gets lost.
        sent: What the device sent so far.
        connections: How many connections there were.
        ca_pem: The certificate that the device has to trust.
        port: Where it listens.
    """

    port = 8883

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.losses: list[Loss] = []
        self.sent: list[Received] = []
        self.connections = 0
        self._address = free_loopback_address()
        with tempfile.TemporaryDirectory() as folder:
            state = StateDir(Path(folder))
            state.prepare()
            ensure_certificates(state, self._address)
            self._context = server_context(state)
            self.ca_pem = state.ca_file.read_text(encoding="ascii")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unruly-mqtt")
        self._lines: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    def lose(self, kind: int, topic: str = "", **options: int) -> Loss:
        """Lose packets from now on; see `Loss`."""
        self.losses.append(Loss(kind, topic, **options))
        return self.losses[-1]

    def cut(self) -> None:
        """Lose every connection now."""
        self._loop.call_soon_threadsafe(self._cut)

    def string(self, connection_string: str) -> str:
        """Return a device's connection string that leads here."""
        return f"{connection_string};GatewayHostName={self._address}"

    def __enter__(self) -> UnrulyMqtt:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(
            self._connect, self._address, self.port, ssl=self._context
        )

    async def _close(self) -> None:
        self._server.close()
        self._cut()
        await asyncio.gather(*self._lines, return_exceptions=True)

    def _cut(self) -> None:
        for line in self._lines:
            line.cancel()

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        line = asyncio.ensure_future(self._serve(reader, writer))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)

    async def _serve(self, device: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        host = str(self.hub.ready["device_host"])
        trust = ssl.create_default_context(cafile=self.hub.ca_file)
        ends, pumps = [to_device], []
        try:
            hub, to_hub = await asyncio.open_connection(host, 8883, ssl=trust)
            ends.append(to_hub)
            pumps = [
                asyncio.ensure_future(self._pump(device, to_hub, from_device=True)),
                asyncio.ensure_future(self._pump(hub, to_device, from_device=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:  # the hub is not there
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            for end in ends:
                end.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, from_device: bool
    ) -> None:
        buffer = bytearray()
        with suppress(OSError):
            while data := await source.read(65536):
                buffer += data
                while (raw := _take(buffer)) is not None:
                    packet = Received(raw[0] >> 4, raw[0] & 15, raw[_header_length(raw) :])
                    if from_device:
                        self.sent.append(packet)
                    loss = self._loss_of(packet, from_device)
                    if loss is None:
                        target.write(raw)
                    elif loss.cut:
                        await target.drain()
                        return

    def _loss_of(self, packet: Received, from_device: bool) -> Loss | None:
        fitting = (one for one in self.losses if one.takes(packet, from_device=from_device))
        return next(fitting, None)


def _take(buffer: bytearray) -> bytes | None:
    """Take the first packet out of the buffer, once it is complete."""
    size = _size(buffer)
    if size is None or sum(size) > len(buffer):
        return None
    raw = bytes(buffer[: sum(size)])
    del buffer[: sum(size)]
    return raw


def _header_length(raw: bytes) -> int:
    size = _size(raw)
    assert size is not None
    return size[0]


def _size(buffer: bytes | bytearray) -> tuple[int, int] | None:
    """Return the length of the fixed header, and of the rest; None while it is not there."""
    length = 0
    for place, byte in enumerate(buffer[1:5]):
        length += (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return 2 + place, length
    return None
