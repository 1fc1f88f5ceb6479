"""One wave: give the orders, look at the devices again and again, until all are done with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.fleet_view import FleetRow
from fwupdate_helpers.rollout.judging import Answer, Followed, Reply
from fwupdate_helpers.rollout.members import Members
from fwupdate_helpers.rollout.orders import Orders
from fwupdate_helpers.rollout.outcomes import Result, Threshold
from fwupdate_helpers.rollout.terms import Terms, read_tag
from fwupdate_helpers.watching import reported_of

_STEP_SECONDS: Final = 1.0
_MOST_SINGLE_READS: Final = 20
"""How many devices that a query does not show are read one by one at each look."""


@dataclass(frozen=True)
class Pace:
    """How often the hub is asked.

    Attributes:
        look_seconds: From one look at a wave to the next. A look that takes long makes the next
            ones rarer, so that the looks take half of the time at most.
        clock: Tells the seconds.
        sleep: Waits for seconds.
    """

    look_seconds: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep


class WaveRun:
    """Follows the devices of one wave to their ends.

    Args:
        terms: What the rollout is to do.
        wave: The number of the wave.
        device_ids: Its devices that are not done with.
        results: The ends that are known already; new ones are added to it.
        members: Reads the devices.
        orders: Gives the orders.
        pace: How often the hub is asked.
        tell: Called after each look.
        alive: Called every second or so, while there is nothing to do.
    """

    def __init__(
        self,
        terms: Terms,
        wave: int,
        device_ids: Iterable[str],
        *,
        results: dict[str, Result],
        members: Members,
        orders: Orders,
        pace: Pace,
        tell: Callable[[], object],
        alive: Callable[[], object],
    ) -> None:
        self._terms, self._wave, self._results = terms, wave, results
        self._members, self._orders, self._pace, self._tell = members, orders, pace, tell
        self._alive = alive
        self._open = {device_id: Followed() for device_id in device_ids if device_id not in results}
        self._size = len(self._open) + len(results)

    def run(self) -> None:
        """Return when all devices are done with, or the time is over; the orders are ended."""
        began = self._pace.clock()
        try:
            self._orders.begin(self._wave, tuple(self._open))
            while self._open:
                look_began = self._pace.clock()
                self._look(look_began - began)
                self._tell()
                self._wait(max(self._pace.look_seconds, self._pace.clock() - look_began))
        except BaseException:
            with suppress(FirmwareUpdateError):
                self._orders.end()
            raise
        self._orders.end()

    def _wait(self, seconds: float) -> None:
        until = self._pace.clock() + seconds
        while self._open and (left := until - self._pace.clock()) > 0:
            self._pace.sleep(min(left, _STEP_SECONDS))
            self._alive()

    def _look(self, elapsed: float) -> None:
        limits = self._terms.limits
        reach_is_over = elapsed >= limits.reach_seconds
        if reach_is_over:
            self._orders.stop_trying()
        rows = self._rows()
        self._take(self._orders.answers())
        for device_id, followed in list(self._open.items()):
            result = followed.judge(
                rows.get(device_id),
                self._terms.update_id,
                reach_is_over=reach_is_over,
                wave_is_over=elapsed >= limits.wave_seconds,
            )
            if result is not None:
                self._results[device_id] = result
                del self._open[device_id]
        if Threshold(limits.abort_at).is_hopeless(self._results.values(), self._size):
            self._orders.withdraw()

    def _take(self, answers: dict[str, Answer]) -> None:
        for device_id, answer in answers.items():
            if device_id in self._open:
                self._open[device_id].answer = answer

    def _rows(self) -> dict[str, FleetRow]:
        rows: dict[str, FleetRow] = {}
        for twin in self._members.query(self._terms.condition(self._wave)):
            rows[twin.device_id] = FleetRow.from_twin(twin)
            self._orders.seen(twin.device_id, reported_of(twin))
        missing = [device_id for device_id in self._open if device_id not in rows]
        for device_id, twin in self._members.read(missing[:_MOST_SINGLE_READS]).items():
            tag = None if twin is None else read_tag(twin.tags)
            if tag is None or tag.run != self._terms.run:
                self._open[device_id].answer = Answer(Reply.GONE)
            else:
                rows[device_id] = FleetRow.from_twin(twin)
        return rows
