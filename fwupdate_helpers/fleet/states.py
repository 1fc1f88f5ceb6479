"""What the devices of a fleet are at, as their workers tell it; readable from any thread."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final

from fwupdate_helpers.fleet.lines import FAILED, ONLINE, STARTING, SWITCHED_OFF

_TICK: Final = 0.2
"""Seconds: an endless wait cannot be interrupted by Ctrl-C on Windows, and a bar wants to move."""


class FleetStates:
    """The state of each device of a fleet.

    Args:
        size: How many devices there are.
    """

    def __init__(self, size: int) -> None:
        self._states = [SWITCHED_OFF] * size
        self._reasons: dict[int, str] = {}
        self._changed = threading.Condition()
        self._changed_at = time.monotonic()

    def put(self, index: int, state: str, why: str = "") -> None:
        """Note a device's state, and why it failed where it did."""
        with self._changed:
            self._states[index] = state
            self._reasons.pop(index, None)
            if state == FAILED:
                self._reasons[index] = why
            self._changed_at = time.monotonic()
            self._changed.notify_all()

    def begin(self, indices: Iterable[int]) -> None:
        """Note that these devices were told to start, except those that are online."""
        for index in indices:
            if self._states[index] != ONLINE:
                self.put(index, STARTING)

    def all(self) -> list[str]:
        """Return the state of each device, by its number."""
        with self._changed:
            return list(self._states)

    def reasons(self) -> dict[int, str]:
        """Return why devices failed, by their numbers."""
        with self._changed:
            return dict(self._reasons)

    def counts(self, indices: Collection[int]) -> Counter[str]:
        """Return how many of these devices are in each state."""
        with self._changed:
            return Counter(self._states[index] for index in indices)

    def wait(
        self,
        indices: Collection[int],
        states: Iterable[str],
        *,
        silence: float,
        on_tick: Callable[[int], object] = lambda count: None,
    ) -> bool:
        """Wait until all of these devices are in one of these states.

        Args:
            indices: The devices.
            states: The states.
            silence: Give up when no device has changed its state for so many seconds.
            on_tick: Told, now and then, how many of them are.

        Returns:
            Whether all are.
        """
        wanted, began = set(states), time.monotonic()
        with self._changed:
            while True:
                count = sum(self._states[index] in wanted for index in indices)
                on_tick(count)
                if count == len(indices):
                    return True
                if time.monotonic() - max(began, self._changed_at) > silence:
                    return False
                self._changed.wait(_TICK)
