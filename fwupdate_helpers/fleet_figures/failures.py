"""Why updates failed: how many by each cause, and their share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from matplotlib.ticker import MaxNLocator

from fwupdate_helpers.colours import VERMILLION
from fwupdate_helpers.fleet_figures.sheet import (
    MARGIN,
    Sheet,
    devices,
    empty,
    percent,
    shortened,
    text_width,
)
from fwupdate_helpers.fleet_view import ROLLED_BACK, FleetRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CAUSES: Final = 10
_ROW: Final = 0.42
_LONGEST_CODE: Final = 26


@dataclass(frozen=True)
class Cause:
    """One cause of failures.

    Attributes:
        code: The reported code, or the outcome where there is none.
        number: Devices.
        stages: The stages in which it happened, the most frequent first.
        rolled_back: Devices that went back to their old version.
    """

    code: str
    number: int
    stages: tuple[str, ...] = ()
    rolled_back: int = 0

    @property
    def words(self) -> str:
        """In which stages, and whether the devices rolled back."""
        parts = [f"while {' or '.join(self.stages)}"] if self.stages else []
        if self.rolled_back:
            all_of_them = self.rolled_back == self.number
            parts.append("rolled back" if all_of_them else f"{self.rolled_back:,} rolled back")
        return ", ".join(parts)


def count_causes(rows: Iterable[FleetRow]) -> list[Cause]:
    """Count the failures by their code, the most frequent first."""
    failed: dict[str, list[FleetRow]] = {}
    for row in rows:
        if row.has_failed:
            failed.setdefault(row.error_code or row.state, []).append(row)
    causes = [_cause(code, each) for code, each in failed.items()]
    return sorted(causes, key=lambda cause: (-cause.number, cause.code))


def _cause(code: str, rows: Sequence[FleetRow]) -> Cause:
    stages = Counter(row.timeline.stages[-1].name for row in rows if row.timeline)
    rolled_back = sum(row.state == ROLLED_BACK for row in rows)
    names = tuple(name for name, _ in stages.most_common())
    return Cause(code, len(rows), names, rolled_back)


def plot_failures(rows: Sequence[FleetRow], *, title: str | None = None) -> Figure:
    """Draw the failures by their cause, with their share of the updates that have begun.

    Args:
        rows: The fleet, from `read_fleet`.
        title: The figure's message; by default it tells how many failed, and why most of them did.

    Returns:
        A figure with alt text, made without pyplot. A fleet without failures makes one that says
        so.

    Example:
        >>> plot_failures(read_fleet(hub, "tags.rollout.id = 'fw-2-0-0'"))  # doctest: +SKIP
    """
    begun = sum(row.timeline is not None or row.has_failed for row in rows)
    causes = count_causes(rows)
    if not causes:
        return empty(_no_failure(len(rows), begun))
    title = title or _title(causes, begun)
    shown = _shown(causes)
    words = [f"{each.number:,} · {percent(each.number / begun)}" for each in shown]
    names = [shortened(each.code, _LONGEST_CODE) for each in shown]
    told = "; ".join(
        f"{each.code} {text}" + (f" ({each.words})" if each.words else "")
        for each, text in zip(shown, words, strict=True)
    )
    sheet = Sheet(
        f"{title}. Share of the {begun:,} updates that have begun: {told}.",
        title,
        legend=[],
        height=_ROW * len(shown),
        left=text_width(names) * 12 / 11 + MARGIN + 0.15,
        right=0.4,
    )
    _draw(sheet, shown, words)
    sheet.ax.set_yticks(range(len(names)), names, fontsize=12, parse_math=False)
    return sheet.figure


def _draw(sheet: Sheet, shown: Sequence[Cause], words: Sequence[str]) -> None:
    ax, places = sheet.ax, range(len(shown))
    numbers = [each.number for each in shown]
    look: dict[str, Any] = {"color": VERMILLION, "edgecolor": "black", "linewidth": 1.5}
    ax.barh(places, numbers, height=0.62, **look)
    told = [
        f"{text} · {each.words}" if each.words else text
        for text, each in zip(words, shown, strict=True)
    ]
    wide = sheet.ax.get_position().width * sheet.figure.get_figwidth()
    room = max(text_width([text]) / (wide - 0.1) for text in told) + 0.02
    # The words of the longest bar need room, too.
    ax.set_xlim(0, max(numbers) / max(0.25, 1 - room))
    for y, number, text in zip(places, numbers, told, strict=True):
        at: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        at["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.annotate(text, (number, y), fontsize=11, parse_math=False, **at)
    sheet.dress(xlabel="devices")
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _shown(causes: Sequence[Cause]) -> list[Cause]:
    if len(causes) <= MOST_CAUSES:
        return list(causes)
    rest = causes[MOST_CAUSES - 1 :]
    number, rolled_back = (sum(getattr(each, key) for each in rest) for key in _SUMMED)
    return [*causes[: MOST_CAUSES - 1], Cause(f"{len(rest)} others", number, (), rolled_back)]


_SUMMED: Final = ("number", "rolled_back")


def _title(causes: Sequence[Cause], begun: int) -> str:
    failed, code = sum(each.number for each in causes), shortened(causes[0].code, _LONGEST_CODE)
    share = percent(failed / begun)
    updates = "1 update" if begun == 1 else f"{begun:,} updates"
    why = f"all with {code}" if len(causes) == 1 else f"most often {code}"
    if failed == 1:
        why = f"with {code}"
    return f"{failed:,} of {updates} failed ({share}), {why}"


def _no_failure(number: int, begun: int) -> str:
    if not number:
        return "No device fits: the query found none."
    if not begun:
        return f"{devices(number)}, and none has begun an update, so none has failed."
    return f"No failure: {begun:,} of {devices(number)} have begun their update, and none failed."
