"""Where a moment stands on the time axis of a fleet: long pauses are cut out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MOST_BREAKS: Final = 8
_IDLE: Final = 1.5
"""Nothing is cut as long as all pauses together are shorter than so many times the rest."""
_LONG: Final = 0.25
"""A pause is cut when it is longer than this share of all that stays."""
_CUT: Final = 0.05
"""The share of the axis that stands for a pause that is cut."""
_TICKS: Final = 9
_STEPS: Final = (
    *(base * 10**power for power in range(-4, 1) for base in (1, 2, 5)),
    *(10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600 * hours for hours in (1, 2, 3, 6, 12)),
    *(86400 * days for days in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000)),
)


@dataclass(frozen=True)
class Break:
    """A pause that is cut out.

    Attributes:
        begin: Where it begins, in seconds.
        end: Where it ends, in seconds.
        left: Its left edge on the axis.
        right: Its right edge on the axis.
    """

    begin: float
    end: float
    left: float
    right: float


class TimeScale:
    """Maps seconds to places on an axis, and knows its ticks.

    Args:
        busy: Begin and end, in seconds, of everything that is to be seen. What lies between may
            be cut out.

    Attributes:
        breaks: The pauses that are cut out.
        left: Where the axis begins.
        right: Where it ends, later than it begins.
        unit: What the ticks' labels count, for example ``min:s``.

    Example:
        >>> scale = TimeScale([(0, 20), (3620, 3640)])  # a pause of an hour
        >>> scale.place(3620) - scale.place(20) < 5
        True
    """

    def __init__(self, busy: Iterable[tuple[float, float]]) -> None:
        merged = _merged(busy) or [(0.0, 0.0)]
        begin, end = merged[0][0], max(merged[-1][1], merged[0][0] + 0.001)
        gaps = _long_gaps(merged, end - begin)
        kept = end - begin - sum(right - left for left, right in gaps)
        width = min(_CUT, 0.3 / max(1, len(gaps))) * kept
        self._times, self._places = [begin], [0.0]
        self.breaks: list[Break] = []
        for left, right in gaps:
            place = self._places[-1] + left - self._times[-1]
            self._times += [left, right]
            self._places += [place, place + width]
            self.breaks.append(Break(left, right, place, place + width))
        self._places.append(self._places[-1] + end - self._times[-1])
        self._times.append(end)
        self.left, self.right = self._places[0], self._places[-1]
        self._step = next((step for step in _STEPS if kept / step <= _TICKS), _STEPS[-1])
        self.unit = _unit(end, self._step)

    def place(self, seconds: float) -> float:
        """Return where a moment stands."""
        for at in range(1, len(self._times)):
            if seconds <= self._times[at] or at == len(self._times) - 1:
                break
        (left, right), (low, high) = self._times[at - 1 : at + 1], self._places[at - 1 : at + 1]
        share = (seconds - left) / (right - left) if right > left else 0.0
        return low + share * (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The ticks' places and labels: round times, none of them within a pause that is cut."""
        found: list[tuple[float, str]] = []
        apart = 0.55 * (self.right - self.left) / _TICKS
        for left, right in self._seen():
            for seconds in _multiples(self._step, left, right) or [left]:
                place = self.place(seconds)
                if not found or place - found[-1][0] >= apart:
                    found.append((place, label(seconds, self.unit)))
        return found

    def _seen(self) -> list[tuple[float, float]]:
        edges = [self._times[0], *(t for cut in self.breaks for t in (cut.begin, cut.end))]
        edges.append(self._times[-1])
        return list(zip(edges[::2], edges[1::2], strict=True))


def label(seconds: float, unit: str) -> str:
    """Write a time of the axis.

    >>> label(3725, "h:min:s"), label(65, "min:s"), label(2.5, "s"), label(90000, "days")
    ('1:02:05', '1:05', '2.5', '1.04')
    """
    if unit == "s":
        return f"{round(seconds, 4):g}"
    if unit == "days":
        return f"{seconds / 86400:.3g}"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if unit == "h:min":
        return f"{hours}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if unit == "h:min:s" else f"{minutes}:{rest:02d}"


def _unit(end: float, step: float) -> str:
    if end < 120 or step < 1:
        return "s"
    if end < 3600:
        return "min:s"
    if step >= 3600 and end >= 4 * 86400:
        return "days"
    return "h:min" if step >= 60 else "h:min:s"


def _merged(busy: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(busy):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, max(begin, end)))
    return merged


def _long_gaps(merged: Sequence[tuple[float, float]], total: float) -> list[tuple[float, float]]:
    gaps = [(one[1], following[0]) for one, following in pairwise(merged)]
    idle = sum(right - left for left, right in gaps)
    chosen: list[tuple[float, float]] = []
    if idle < _IDLE * (total - idle):
        return chosen
    for left, right in sorted(gaps, key=lambda gap: gap[0] - gap[1])[:MOST_BREAKS]:
        rest = total - (right - left)
        if rest <= 0 or right - left < _LONG * rest:
            break
        chosen.append((left, right))
        total = rest
    return sorted(chosen)


def _multiples(step: float, left: float, right: float) -> list[float]:
    first = -(-(left - 1e-9) // step)
    number = int((right + 1e-9 - first * step) // step) + 1
    return [(first + at) * step for at in range(max(0, number))]
