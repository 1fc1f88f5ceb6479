"""Lets the faults of the book act on the wire: on connections, on answers, on downloads."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Protocol

from aiohttp import web

from fwupdate_helpers.localhub.error_responses import error_response, method_error
from fwupdate_helpers.localhub.errors import DEVICE_NOT_ONLINE, HubError
from fwupdate_helpers.localhub.fault_specs import DropConnection, FaultOrder
from fwupdate_helpers.localhub.faults import Fault, FaultBook

logger = logging.getLogger(__name__)

Json = dict[str, Any]

DROPPED: Final = "a fault at the hub drops the connection"
KEPT_OFF: Final = "a fault at the hub keeps the device off"
_STEPS_PER_SECOND: Final = 10
"""How often a slow download sends something."""
_FLUSH_SECONDS: Final = 5.0
_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER on, 0 seconds: closing sends RST."""


class Devices(Protocol):
    """What faults need of the device endpoint."""

    def is_connected(self, device_id: str) -> bool:
        """Tell whether a device is connected."""

    def disconnect(self, device_id: str, reason: str) -> None:
        """End a device's connection, if it has one."""


class WireFaults:
    """The faults of the hub, for the parts of it that read and write.

    Args:
        clock: Tells the time, UTC.
        on: Whether faults can be asked for at all.
    """

    def __init__(self, clock: Callable[[], datetime], *, on: bool = True) -> None:
        self.on = on
        self.book = FaultBook(clock)
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self, order: FaultOrder, devices: Devices) -> Fault:
        """Add a fault, and let it act where it waits for nothing.

        Raises:
            HubError: 404103, there is no connection to drop; or as for `FaultBook.add`.
        """
        drop = order.spec if isinstance(order.spec, DropConnection) else None
        if drop is not None and drop.is_at_once:
            _check_droppable(drop, devices)
        fault = self.book.add(order)
        logger.info("fault %s %s", fault.id, order.spec.text)
        if drop is not None and drop.is_at_once:
            self.book.act(fault)
            devices.disconnect(drop.device_id, DROPPED)
        elif drop is not None and drop.every is not None:
            self._drop_later(fault, drop, devices)
        return fault

    def _drop_later(self, fault: Fault, spec: DropConnection, devices: Devices) -> None:
        loop = asyncio.get_running_loop()
        self._timers[fault.id] = loop.call_later(
            fault.next_pause(), self._drop_again, fault, spec, devices
        )

    def _drop_again(self, fault: Fault, spec: DropConnection, devices: Devices) -> None:
        del self._timers[fault.id]
        if fault not in list(self.book):
            return
        if devices.is_connected(spec.device_id):
            self.book.act(fault)
            devices.disconnect(spec.device_id, DROPPED)
        if fault.remaining != 0:
            self._drop_later(fault, spec, devices)

    def clear(self, fault_id: str | None = None) -> None:
        """End one fault or all; harmless when there is none."""
        self.book.clear(fault_id)
        for one in list(self._timers) if fault_id is None else [fault_id]:
            if one in self._timers:
                self._timers.pop(one).cancel()

    # -- devices ------------------------------------------------------------------------------

    def reported(self, device_id: str, patch: Json, drop: Callable[[str], None]) -> Report:
        """Tell what becomes of the answers to a reported patch that was applied.

        Args:
            drop: Ends the device's connection with a reason; called when its answers are out.
        """
        lost = self.book.lost_acknowledgement(device_id, patch)
        if self.book.drops_after(device_id, patch):
            asyncio.get_running_loop().call_soon(drop, DROPPED)
        return Report(answered=lost is None, acknowledged=lost is None or lost.puback)

    def method_answered(self, device_id: str, deliver: Callable[[], None]) -> None:
        """Pass a device's answer on: now, later, or never."""
        delay = self.book.method_answer_delay(device_id)
        if delay is not None and delay > 0:
            asyncio.get_running_loop().call_later(delay, deliver)
        elif delay is not None:
            deliver()

    # -- services -----------------------------------------------------------------------------

    def refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a call that is not carried out, or None."""
        path = request.path
        kind = _kind(path)
        error = self.book.refusal(kind, request.match_info.get("id") if kind != "other" else None)
        if error is None:
            return None
        return method_error(error) if kind == "methods" else error_response(error)


class Report:
    """What becomes of the answers to one reported patch.

    Attributes:
        answered: Whether the device is told that the patch was applied.
        acknowledged: Whether its packet is acknowledged.
    """

    def __init__(self, *, answered: bool = True, acknowledged: bool = True) -> None:
        self.answered = answered
        self.acknowledged = acknowledged


class FaultyDownload:
    """One answer with a part of an image, as the faults let it through.

    Args:
        image: The image's path.
        size: Bytes of the whole image.
        start: The offset of the answer's first byte.
    """

    def __init__(self, faults: WireFaults, image: str, *, size: int, start: int) -> None:
        self._book = faults.book
        self._image = image
        self._size = size
        self._start = start
        self._sent = 0
        self._free_at = 0.0

    async def allowed(self, wanted: int) -> int:
        """Wait as long as a slow download has to; return how many bytes may go, 0 to hang up."""
        speed = self._book.speed(self._image)
        if speed is not None:
            loop = asyncio.get_running_loop()
            wanted = min(wanted, max(1, speed // _STEPS_PER_SECOND))
            await asyncio.sleep(self._free_at - loop.time())
            self._free_at = max(self._free_at, loop.time()) + wanted / speed
        cut = self._book.next_cut(self._image, self._sent)
        return wanted if cut is None else min(wanted, cut[1].after - self._sent)

    def passed(self, piece: bytes) -> bytes:
        """Count the bytes that go now, and return them as they go."""
        first = self._start + self._sent
        self._sent += len(piece)
        corrupted = self._corrupted(first, len(piece))
        if not corrupted:
            return piece
        changed = bytearray(piece)
        for place, faults in corrupted.items():
            changed[place] ^= 0xFF
            for fault in faults:
                self._book.act(fault)
        return bytes(changed)

    def _corrupted(self, first: int, length: int) -> dict[int, list[Fault]]:
        places: dict[int, list[Fault]] = {}
        for fault, spec in self._book.corruptions(self._image):
            place = spec.offset(self._size) - first
            if 0 <= place < length:
                places.setdefault(place, []).append(fault)
        return places

    async def hang_up(self, transport: asyncio.Transport | None) -> None:
        """End the connection as the fault that allowed no more bytes says."""
        cut = self._book.next_cut(self._image, self._sent)
        if cut is None or transport is None:
            return
        fault, spec = cut
        self._book.act(fault)
        if spec.reset:
            await _reset(transport)
        else:
            transport.close()


def _check_droppable(drop: DropConnection, devices: Devices) -> None:
    if not devices.is_connected(drop.device_id) and not drop.keep_off:
        raise HubError(
            DEVICE_NOT_ONLINE,
            f"The device {drop.device_id} is not connected, so there is nothing to drop. Start it "
            "first, or keep it off for some seconds.",
        )


async def _reset(transport: asyncio.Transport) -> None:
    """Send RST, after what was written has gone out."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _FLUSH_SECONDS
    while transport.get_write_buffer_size() and loop.time() < deadline:
        await asyncio.sleep(0.01)
    plain = transport.get_extra_info("socket")
    if plain is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def _kind(path: str) -> str:
    if path.startswith("/twins/"):
        return "methods" if path.endswith("/methods") else "twin"
    is_registry = path == "/devices" or (path.startswith("/devices/") and path != "/devices/query")
    return "registry" if is_registry else "other"
