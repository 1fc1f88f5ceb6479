"""The swimlanes of a fleet board, as a PNG; matplotlib loads with the first one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.widgets.picture import drawing_lock

if TYPE_CHECKING:
    from fwupdate_helpers.fleet_view import FleetRow
    from fwupdate_helpers.widgets.board_view import BoardView

_DPI: Final = 130
_PAUSE_SECONDS: Final = 1.0
_PAUSE_SHARE: Final = 4.0
"""Drawing takes no more than a fifth of the time, unless the computer is very slow."""
_LONGEST: Final = 10.0


def fleet_png(rows: Sequence[FleetRow], title: str) -> tuple[bytes, str]:
    """Draw a fleet in any thread; return the PNG and its alt text."""
    from fwupdate_helpers.fleet_figures.swimlanes import plot_fleet

    with drawing_lock:
        figure = plot_fleet(rows, title=title)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, pil_kwargs={"compress_level": 3})
    return buffer.getvalue(), str(getattr(figure, "alt_text", title))


class FleetPicture:
    """Draws the fleet of one view after the other, only on a change and not too often.

    Args:
        show: Takes the PNG and its alt text.
        clock: Tells the seconds.
    """

    def __init__(
        self, show: Callable[[bytes, str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show, self._clock = show, clock
        self._shown: tuple[FleetRow, ...] = ()
        self._next = float("-inf")

    def is_due(self, view: BoardView) -> bool:
        """Tell whether there is something new to draw, and the last time is long enough ago."""
        return view.rows != self._shown and self._clock() >= self._next

    def draw(self, view: BoardView) -> None:
        """Draw the view's fleet and show it."""
        self._shown = view.rows  # what cannot be drawn is not tried again and again
        import_module("fwupdate_helpers.fleet_figures.swimlanes")  # once, so it is not to be paced
        began = self._clock()
        png, alt_text = fleet_png(view.rows, view.title)
        took = self._clock() - began
        self._next = began + min(_LONGEST, max(_PAUSE_SECONDS, (1 + _PAUSE_SHARE) * took))
        self._show(png, alt_text)
