"""The fleet as swimlanes: one thin bar for each device, grouped by wave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fwupdate_helpers import contract
from fwupdate_helpers.colours import VERMILLION
from fwupdate_helpers.fleet_figures.moments import Bar, Moments
from fwupdate_helpers.fleet_figures.sheet import (
    GREY,
    MARGIN,
    Sheet,
    devices,
    empty,
    pale,
    shortened,
    stage_colour,
    stage_hatch,
    text_width,
)
from fwupdate_helpers.fleet_view import (
    FAILED,
    ROLLED_BACK,
    FleetRow,
    by_wave,
    tell_states,
)
from fwupdate_helpers.timeline import format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LABELLED: Final = 40
"""Up to so many devices, each has its name beside its bar and its end in words."""
_TALLEST: Final = 6.4
"""Inches for the bars of all waves together."""
_ROW: Final = 0.27
_HEADING: Final = 0.29
_LEAST_WAVE: Final = 0.13
"""Inches: the highest row, a wave's heading, and the least for a wave's bars."""
_HATCHED: Final = 0.13
"""Bars that are thinner than this show no pattern."""
_NARROWEST: Final = 0.003
"""Share of the axis: an update that took no time is a tick, not nothing."""
_LONGEST_NAME: Final = 24
_FAILURE: Final[dict[str, Any]] = {
    "linestyle": "none",
    "markerfacecolor": VERMILLION,
    "markeredgecolor": "black",
    "markeredgewidth": 1.0,
    "clip_on": False,
    "zorder": 5,
}
_MARKERS: Final = {FAILED: "X", ROLLED_BACK: "<"}


def plot_fleet(
    rows: Sequence[FleetRow], *, title: str | None = None, now: datetime | None = None
) -> Figure:
    """Draw a fleet's updates: one thin bar a device, on the hub's clock, grouped by wave.

    Long pauses are cut out of the time axis, and the axis tells so. Failures carry a mark that
    stays visible among a thousand devices. What the hub has not heard yet is pale.

    Args:
        rows: The fleet, from `read_fleet`.
        title: The figure's message; by default it tells how many devices ended how.
        now: The moment of the picture (hub clock) for updates that run; None is when the hub
            heard last of any of them.

    Returns:
        A figure with alt text, made without pyplot. A fleet without updates makes one that says so.

    Example:
        >>> plot_fleet(read_fleet(hub, "tags.rollout.id = 'fw-2-0-0'"))  # doctest: +SKIP
    """
    if not rows:
        return empty("No device fits: the query found none.")
    if not any(row.spans for row in rows):
        return empty(f"{devices(len(rows))}, and none has begun an update.")
    lanes = _Lanes(rows, now)
    title = title or fleet_title(rows, lanes.moments)
    return lanes.draw(title, f"{title}. {_told(rows)}")


def fleet_title(rows: Sequence[FleetRow], moments: Moments) -> str:
    """Return the message of a fleet: how many devices, how they ended, and in which time."""
    when = "" if all(row.has_ended for row in rows) else " so far"
    took = format_seconds(moments.now)
    return f"{devices(len(rows))} in {took}{when}: {tell_states(rows)}"


def _told(rows: Sequence[FleetRow]) -> str:
    bars, groups = "One thin bar a device, by the hub's clock.", by_wave(rows)
    if list(groups) == [None]:
        return bars
    return f"{bars} {'; '.join(_heading(wave, group) for wave, group in groups.items())}."


def _heading(wave: int | None, rows: Sequence[FleetRow]) -> str:
    name = "without a wave" if wave is None else f"wave {wave}"
    return f"{name} · {devices(len(rows))}: {tell_states(rows)}"


def _sort_key(row: FleetRow) -> tuple[bool, float, str]:
    """Begin by begin, so that a wave looks like a staircase; those that have not begun are last."""
    start = row.spans[0].start.timestamp() if row.spans else 0.0
    return not row.spans, start, row.device_id


class _Lanes:
    """The rows' places on the sheet, in inches from the top, and what is drawn there."""

    def __init__(self, rows: Sequence[FleetRow], now: datetime | None) -> None:
        self.groups = {wave: sorted(each, key=_sort_key) for wave, each in by_wave(rows).items()}
        self.rows = [row for group in self.groups.values() for row in group]
        self.moments = Moments(self.rows, now)
        self.scale = self.moments.scale
        self.labelled = len(rows) <= MOST_LABELLED
        self.headed = list(self.groups) != [None]
        self._lay_out()

    def _lay_out(self) -> None:
        self.headings: list[tuple[float, str]] = []
        self.bands: list[tuple[float, float]] = []
        self.places: list[tuple[float, float]] = []  # for each row its middle and its height
        y, pitches = 0.0, _pitches({wave: len(each) for wave, each in self.groups.items()})
        for wave, group in self.groups.items():
            if self.headed:
                self.headings.append((y, _heading(wave, group)))
                y += _HEADING
            pitch = pitches[wave]
            self.bands.append((y, y + len(group) * pitch))
            self.places += [(y + (at + 0.5) * pitch, pitch) for at in range(len(group))]
            y += len(group) * pitch + (0.06 if self.headed else 0.0)
        self.height = y

    def draw(self, title: str, alt_text: str) -> Figure:
        names, ends = self._names(), [_end_words(row) for row in self.rows]
        left, right = MARGIN + 0.1, MARGIN + 0.1
        if self.labelled:
            left, right = text_width(names) + 0.3, 1.12 * text_width(ends) + 0.3  # bold is wider
        sheet = Sheet(
            alt_text, title, legend=self._legend(), height=self.height, left=left, right=right
        )
        self.ax = sheet.ax
        self.ax.set_ylim(self.height, 0)
        self._draw_bars()
        self._draw_failures()
        sheet.draw_time_axis(self.scale, band=max(self.bands, key=lambda band: band[1] - band[0]))
        self.ax.set_yticks([])
        self._draw_headings()
        if self.labelled:
            self._label(names, ends)
        return sheet.figure

    def _draw_bars(self) -> None:
        known: dict[tuple[str, bool], list[Any]] = defaultdict(list)
        for (y, pitch), bars in zip(self.places, self.moments.bars, strict=True):
            half = pitch * (0.4 if pitch > 0.05 else 0.5)
            for bar in bars:
                known[bar.stage, True].append(self._corners(bar.begin, bar.heard, y, half))
                if bar.end > bar.heard:
                    known[bar.stage, False].append(self._corners(bar.heard, bar.end, y, half))
        edge = 0.8 if self._are_hatched else 0.0
        for (stage, heard), corners in known.items():
            colour = stage_colour(stage)
            look: dict[str, Any] = {"facecolor": colour if heard else pale(colour)}
            look |= {"edgecolor": "black" if edge else "face", "linewidth": edge or 0.1}
            hatch = stage_hatch(stage) if self._are_hatched and heard else None
            polygons = PolyCollection(corners, hatch=hatch, zorder=3, label=stage, **look)
            self.ax.add_collection(polygons, autolim=False)

    @property
    def _are_hatched(self) -> bool:
        return min(pitch for _, pitch in self.places) >= _HATCHED

    def _corners(self, begin: float, end: float, y: float, half: float) -> list[Any]:
        left, right = self.scale.place(begin), self.scale.place(end)
        right = max(right, left + _NARROWEST * self.scale.right)  # the next stage covers it
        return [(left, y - half), (right, y - half), (right, y + half), (left, y + half)]

    def _draw_failures(self) -> None:
        for state, marker in _MARKERS.items():
            marked = [at for at, row in enumerate(self.rows) if row.state == state]
            xs = [self.scale.place(_last(self.moments.bars[at])) for at in marked]
            ys = [self.places[at][0] for at in marked]
            size = 9 if self.labelled else 7
            self.ax.plot(xs, ys, marker=marker, markersize=size, label=state, **_FAILURE)

    def _draw_headings(self) -> None:
        edge = self.ax.get_yaxis_transform()
        for y, words in self.headings:
            self.ax.axhspan(y, y + _HEADING - 0.04, color="#EEEEEE", zorder=2.5)
            style: dict[str, Any] = {"fontsize": 11, "va": "center", "transform": edge}
            self.ax.text(0.006, y + _HEADING / 2 - 0.02, words, zorder=6, **style)

    def _label(self, names: Sequence[str], ends: Sequence[str]) -> None:
        edge = self.ax.get_yaxis_transform()
        for (y, _), name, end, row in zip(self.places, names, ends, self.rows, strict=True):
            style: dict[str, Any] = {"fontsize": 11, "va": "center", "transform": edge}
            style |= {"parse_math": False, "clip_on": False}
            self.ax.text(-0.012, y, name, ha="right", **style)
            weight = "bold" if row.has_failed else "normal"
            self.ax.text(1.015, y, end, ha="left", fontweight=weight, **style)

    def _names(self) -> list[str]:
        return short_names([row.device_id for row in self.rows])

    def _legend(self) -> list[Any]:
        begun = {bar.stage: None for bars in self.moments.bars for bar in bars}
        ordered = sorted(begun, key=lambda name: _order(name))
        handles: list[Any] = []
        for name in ordered:
            hatch = stage_hatch(name) if self._are_hatched else None
            look: dict[str, Any] = {"facecolor": stage_colour(name), "edgecolor": "black"}
            handles.append(Patch(label=name, hatch=hatch, linewidth=1, **look))
        if any(bar.end > bar.heard for bars in self.moments.bars for bar in bars):
            handles.append(
                Patch(label="running, nothing heard yet", facecolor="#DDDDDD", edgecolor=GREY)
            )
        states = {row.state for row in self.rows}
        for state, marker in _MARKERS.items():
            if state in states:
                handles.append(Line2D([], [], marker=marker, ms=9, label=state, **_FAILURE))
        return handles


def _pitches(sizes: Mapping[int | None, int]) -> dict[int | None, float]:
    """Return the inches of a row in each wave: a small wave has higher rows than a large one."""
    pitch = _ROW
    for _ in range(len(sizes)):  # what small waves take, the large ones must do without
        large = {wave: size for wave, size in sizes.items() if size * pitch > _LEAST_WAVE}
        room = _TALLEST - _LEAST_WAVE * (len(sizes) - len(large))
        pitch = min(_ROW, max(0.1 * _TALLEST, room) / max(1, sum(large.values())))
    return {wave: max(pitch, min(_ROW, _LEAST_WAVE / size)) for wave, size in sizes.items()}


def _order(name: str) -> int:
    return contract.STAGES.index(name) if name in contract.STAGES else len(contract.STAGES)


def _last(bars: Sequence[Bar]) -> float:
    return bars[-1].end if bars else 0.0


def _end_words(row: FleetRow) -> str:
    if row.has_failed:
        sign = "◀" if row.state == ROLLED_BACK else "✖"
        return f"{sign} {shortened(row.error_code or row.state, _LONGEST_NAME)}"
    if row.timeline is None or row.is_running:
        return f"▶ {row.state}" if row.is_running else row.state
    seconds = row.timeline.seconds
    return "✔ completed" if seconds is None else f"✔ {format_seconds(seconds)}"


def short_names(names: Sequence[str], longest: int = _LONGEST_NAME) -> list[str]:
    """Leave out what the names of all devices begin with, where they are long.

    >>> short_names(["jovyan-fleet-0001", "jovyan-fleet-0002"], longest=10)
    ['…0001', '…0002']
    """
    if max(map(len, names)) <= longest:
        return list(names)
    first, last = min(names), max(names)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    head, dash, _ = "".join(letter for letter, _ in same).rpartition("-")
    common = "" if first == last else head + dash
    short = ["…" + name[len(common) :] if common else name for name in names]
    return [shortened(name, longest) for name in short]
