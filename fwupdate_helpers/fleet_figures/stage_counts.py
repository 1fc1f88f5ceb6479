"""How many devices were in which stage, over time: areas that are stacked to the whole fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from fwupdate_helpers import contract
from fwupdate_helpers.colours import VERMILLION
from fwupdate_helpers.fleet_figures.moments import Moments
from fwupdate_helpers.fleet_figures.sheet import Sheet, devices, empty, stage_colour, stage_hatch
from fwupdate_helpers.fleet_view import (
    COMPLETED,
    FAILED,
    NOT_BEGUN,
    NOT_REACHED,
    ROLLED_BACK,
    UP_TO_DATE,
    FleetRow,
    tell_states,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT: Final = 3.4
_LOOKS: Final = {
    FAILED: (VERMILLION, ""),
    ROLLED_BACK: (VERMILLION, "xxx"),
    COMPLETED: ("#BBBBBB", ""),
    UP_TO_DATE: ("#BBBBBB", "..."),
    NOT_REACHED: ("#FFFFFF", "..."),
    NOT_BEGUN: ("#FFFFFF", ""),
}
"""Colour and pattern. What moves is coloured, what has ended well or not begun is not."""


@dataclass(frozen=True)
class StageCounts:
    """How many devices were in each state, from one change to the next.

    Attributes:
        seconds: When the numbers changed, since the first update began.
        counts: For each state, from the bottom of the picture to its top, the number from then on.
    """

    seconds: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]

    @property
    def peak(self) -> int:
        """The most devices whose update ran at once."""
        moving = [numbers for state, numbers in self.counts.items() if state not in _LOOKS]
        return max((sum(each) for each in zip(*moving, strict=True)), default=0)


def count_stages(rows: Sequence[FleetRow], moments: Moments | None = None) -> StageCounts:
    """Count, from the stages' times, how many devices were in which state when.

    Args:
        rows: The fleet.
        moments: Their times, where the caller has them already.
    """
    moments = moments or Moments(rows)
    at_first = Counter(NOT_BEGUN if row.spans else row.state for row in rows)
    changes: dict[float, Counter[str]] = {0.0: at_first}
    for seconds, before, after in _steps(rows, moments):
        change = changes.setdefault(seconds, Counter())
        change[before] -= 1
        change[after] += 1
    changes.setdefault(moments.now, Counter())
    states = _states(changes.values())
    numbers, series = Counter[str](), {state: list[int]() for state in states}
    for _, change in sorted(changes.items()):
        numbers.update(change)
        for state in states:
            series[state].append(numbers[state])
    return StageCounts(
        tuple(sorted(changes)), {state: tuple(each) for state, each in series.items()}
    )


def _steps(rows: Sequence[FleetRow], moments: Moments) -> Iterator[tuple[float, str, str]]:
    for row, bars in zip(rows, moments.bars, strict=True):
        state = NOT_BEGUN
        for bar in bars:
            yield bar.begin, state, bar.stage
            state = bar.stage
        if bars and row.outcome is not None:
            yield bars[-1].end, state, row.state


def _states(changes: Any) -> list[str]:
    """Return the states from bottom to top: failures stand on the ground, where they are seen."""
    found = {state for change in changes for state in change}
    others = sorted(found - set(contract.STAGES) - set(_LOOKS))
    ended, to_come = [FAILED, ROLLED_BACK, COMPLETED, UP_TO_DATE], [NOT_REACHED, NOT_BEGUN]
    order = [*ended, *others, *reversed(contract.STAGES), *to_come]
    return [state for state in order if state in found]


def plot_stage_counts(
    rows: Sequence[FleetRow], *, title: str | None = None, now: datetime | None = None
) -> Figure:
    """Draw how many devices were in which stage over time, stacked to the whole fleet.

    Args:
        rows: The fleet, from `read_fleet`.
        title: The figure's message; by default it tells how many updated at once, and how it ended.
        now: The moment of the picture (hub clock) for updates that run; None is when the hub
            heard last of any of them.

    Returns:
        A figure with alt text, made without pyplot. A fleet without updates makes one that says so.

    Example:
        >>> plot_stage_counts(read_fleet(hub, "tags.fleet = 'fleet'"))  # doctest: +SKIP
    """
    if not rows:
        return empty("No device fits: the query found none.")
    moments = Moments(rows, now)
    if moments.begin is None:
        return empty(f"{devices(len(rows))}, and none has begun an update.")
    found, scale = count_stages(rows, moments), moments.scale
    title = title or _title(rows, found)
    legend = [_patch(state, numbers) for state, numbers in found.counts.items()]
    sheet = Sheet(_told(title, found), title, legend=legend, height=_HEIGHT, left=0.9)
    ax = sheet.ax
    ax.set_ylim(0, len(rows))
    _draw_areas(ax, found, [scale.place(seconds) for seconds in found.seconds])
    sheet.draw_time_axis(scale)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set_ylabel("devices", fontsize=12)
    return sheet.figure


def _title(rows: Sequence[FleetRow], found: StageCounts) -> str:
    if not found.peak:  # the updates took less time than a twin can tell
        return f"{devices(len(rows))}: {tell_states(rows)}"
    return f"Up to {devices(found.peak)} updated at once: {tell_states(rows)}"


def _draw_areas(ax: Any, found: StageCounts, places: Sequence[float]) -> None:
    below = [0] * len(places)
    for state, numbers in found.counts.items():
        top = [low + number for low, number in zip(below, numbers, strict=True)]
        look: dict[str, Any] = _look(state) | {"linewidth": 0.6, "step": "post", "zorder": 1.5}
        ax.fill_between(places, below, top, label=state, **look)
        below = top


def _look(state: str) -> dict[str, Any]:
    colour, hatch = _LOOKS.get(state) or (stage_colour(state), stage_hatch(state))
    return {"facecolor": colour, "hatch": hatch or None, "edgecolor": "black"}


def _patch(state: str, numbers: Sequence[int]) -> Patch:
    last = f": {numbers[-1]:,}" if numbers[-1] else ""
    return Patch(label=f"{state}{last}", linewidth=1, **_look(state))


def _told(title: str, found: StageCounts) -> str:
    most = ", ".join(
        f"{state} {max(numbers):,}"
        for state, numbers in reversed(found.counts.items())
        if state not in _LOOKS
    )
    return f"{title}. Devices in a stage over time, by the hub's clock; the most at once: {most}."
