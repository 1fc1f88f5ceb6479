"""A device's update without its network: real flash chip, boot loader and agent, a hub in memory.

A `World` is a board, the twin that its hub has, and an image on a server. Every call that reads or
writes the chip, and every message, is a moment at which the power can be cut.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fwupdate_helpers.contract import UpdateOrder
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware.agent import UpdateAgent
from fwupdate_helpers.firmware.board import Board, Boot
from fwupdate_helpers.firmware.desired import Verdict
from fwupdate_helpers.firmware.download import Sink
from fwupdate_helpers.firmware.flash import PowerLost
from fwupdate_helpers.firmware.image import build_image
from fwupdate_helpers.localhub.twins import merge

Json = dict[str, Any]

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OLD, NEW = "1.0.0", "2.0.0"
IMAGE_BYTES = 100_000
CHUNK = 24_000
ORDER = UpdateOrder("https://images.test/firmware.img", "update-1", NEW)


def image(folder: Path, version: str, **options: Any) -> Path:
    """Build a small image."""
    file = folder / f"{version}-{uuid.uuid4().hex}.img"
    build_image(file, **{"version": version, "signing_key": KEY, "size": IMAGE_BYTES, **options})
    return file


class World:
    """One board, its hub and its image server.

    Args:
        folder: The flash chip's content.
        factory: The image that the board was made with.
        served: The image on the server.

    Attributes:
        twin: The reported properties as the hub has them.
        desired: The desired property `firmware`, if any.
        calls: What was called so far, in order.
        answers: The statuses of the direct methods that were answered.
        received: Bytes that the device got from the server.
    """

    def __init__(self, folder: Path, factory: Path, served: bytes) -> None:
        self.folder, self.factory, self.served = folder, factory, served
        self.twin: Json = {}
        self.desired: Json | None = None
        self.calls: list[str] = []
        self.answers: list[int] = []
        self.received = 0
        self.on_call: Callable[[str], None] = lambda call: None
        self.board: Board

    @property
    def etag(self) -> str:
        return f'"{hash(self.served)}"'

    def live(
        self,
        order: UpdateOrder | None = None,
        *,
        cut_at: int | None = None,
        survivors: random.Random | None = None,
    ) -> bool:
        """Switch on, let a service send `order`, and run until all is done, or until a power cut.

        Args:
            order: What the service sends once the device is there.
            cut_at: The power is cut before the call of this number.
            survivors: See `Flash.lose_power`.

        Returns:
            Whether the power stayed on.
        """
        self.calls = []

        def cut(call: str) -> None:
            if cut_at is not None and len(self.calls) > cut_at:
                self.board.cut_power(survivors)
                raise PowerLost

        self.on_call = cut
        try:
            asyncio.run(self._live(order))
        except PowerLost:
            return False
        return True

    def call(self, name: str) -> None:
        self.calls.append(name)
        self.on_call(name)

    async def _live(self, order: UpdateOrder | None) -> None:
        self.board = Board.__new__(Board)  # there before its first call, which may be the last
        self.board.__init__(  # type: ignore[misc]
            self.factory,
            KEY.public_key(),
            folder=self.folder,
            on_call=lambda operation, name: self.call(f"{operation} {name}".strip()),
        )
        agent = UpdateAgent(self.board, self)

        def judge() -> Verdict | None:
            return agent.judge(self.desired, allow_http=False)

        goes_on = await agent.start(await self.boot(), self.twin, judge)
        while goes_on:
            await agent.run()
            verdict = judge()
            goes_on = verdict is not None and verdict.order is not None
            if verdict is not None:
                agent.heed(verdict)
                await agent.report()
        if order is None:
            return
        answer = agent.answer_at_once(order)
        if answer is None:
            await agent.begin(order)
            answer = (200, {})
            self.call("answer")
            self.answers.append(answer[0])
            await agent.run()
        else:
            self.answers.append(answer[0])

    async def boot(self) -> Boot:
        boot = self.board.power_up()
        while boot.hangs and boot.trial_of is not None:
            boot = self.board.power_up()
        return boot

    # -- what the agent sees ----------------------------------------------------------------------

    async def report(self, patch: Json) -> None:
        self.call("report")
        self.twin = merge(self.twin, patch)
        self.call("acknowledge")

    async def download(
        self, uri: str, sink: Sink, on_progress: Callable[[int, int | None], None]
    ) -> None:
        if sink.validator != self.etag or not sink.size:
            sink.start_over(self.etag)
        if sink.size > len(self.served):
            raise DownloadError("tooMuch", "The chip holds more than the server has.")
        while sink.size < len(self.served):
            self.call("receive")
            chunk = self.served[sink.size : sink.size + CHUNK]
            self.received += len(chunk)
            sink.append(chunk)
            sink.sync()
            on_progress(sink.size, len(self.served))

    async def reboot(self) -> Boot:
        self.call("reboot")
        return await self.boot()

    async def pause(self, share: float = 1.0) -> None:
        await asyncio.sleep(0)

    def hardware_passes(self) -> bool:
        return True

    async def begins(self, stage: str) -> None:
        pass

    async def step(self) -> None:
        await asyncio.sleep(0)

    def reset(self) -> None:
        raise AssertionError("the watchdog bit")

    def note(self, kind: str, text: str) -> None:
        pass

    def now(self) -> datetime:
        return datetime.now(timezone.utc)
