"""The times of a fleet's updates, in seconds since the first of them began (hub clock)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from fwupdate_helpers.fleet_figures.time_scale import TimeScale
from fwupdate_helpers.fleet_view import FleetRow


@dataclass(frozen=True)
class Bar:
    """One stage of one device.

    Attributes:
        stage: The stage's name.
        begin: Seconds.
        heard: Up to here the hub has heard of it.
        end: Its end; of an unfinished stage the moment of the picture.
    """

    stage: str
    begin: float
    heard: float
    end: float


class Moments:
    """The bars of a fleet, and the time axis that they need.

    Args:
        rows: The fleet; devices without an update have no bars.
        now: The moment of the picture (hub clock); None is when the hub heard last of any of them.

    Attributes:
        begin: When the first update began; None without any.
        now: The moment of the picture in seconds.
        bars: For each row its bars.
    """

    def __init__(self, rows: Sequence[FleetRow], now: datetime | None = None) -> None:
        begins = [row.spans[0].start for row in rows if row.spans]
        self.begin = min(begins, default=None)
        latest = max(_ends(rows), default=None)
        running = any(row.is_running for row in rows)
        moment = max(filter(None, (latest, now if running else None)), default=None)
        self.now = 0.0 if moment is None else self.at(moment)
        self.bars = [self._bars(row) for row in rows]

    def at(self, moment: datetime) -> float:
        """Return the seconds from the begin to a moment."""
        return 0.0 if self.begin is None else (moment - self.begin).total_seconds()

    @property
    def scale(self) -> TimeScale:
        """The time axis."""
        return TimeScale((bar.begin, bar.end) for bars in self.bars for bar in bars)

    def _bars(self, row: FleetRow) -> list[Bar]:
        bars: list[Bar] = []
        for span in row.spans:
            begin = self.at(span.start)
            if span.end is not None:
                end = heard = self.at(span.end)
            elif span is row.spans[-1] and row.is_running:
                end = max(begin, self.now)
                heard = min(end, max(begin, self.at(row.heard_at) if row.heard_at else begin))
            else:  # it was left open, and nobody knows when it ended
                end = heard = begin
            bars.append(Bar(span.name, begin, heard, end))
        return bars


def _ends(rows: Iterable[FleetRow]) -> Iterable[datetime]:
    for row in rows:
        for span in row.spans:
            yield span.end or span.start
        if row.heard_at:
            yield row.heard_at
