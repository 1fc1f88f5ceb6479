"""The growing timeline of a panel, as a PNG; matplotlib loads with the first one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.timeline import UpdateTimeline, retries_told
from fwupdate_helpers.widgets.view import PanelView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 5.0, 2.9
"""Inches. Shown 480 pixels wide or more, the smallest text (11 pt) is 11 pt on the screen."""
_DPI: Final = 160
_PAUSE_SECONDS: Final = 0.5
_PAUSE_SHARE: Final = 4.0
"""Mere growth takes no more than a fifth of the time, however slow the computer is."""

_Drawn = tuple[UpdateTimeline | None, tuple[str, ...], str, tuple[datetime, ...]]

drawing_lock = threading.Lock()
"""The widgets of a kernel share matplotlib's caches of fonts."""


def timeline_png(
    timeline: UpdateTimeline,
    *,
    title: str,
    to_come: Sequence[str],
    retries: Sequence[datetime] = (),
) -> bytes:
    """Draw a timeline in any thread, whatever matplotlib's backend is.

    Args:
        timeline: The update.
        title: One short line.
        to_come: The stages that have not begun; their rows are there, so that nothing jumps.
        retries: When the service tried again: a mark for each.
    """
    from matplotlib.figure import Figure

    from fwupdate_helpers.timeline_figure import draw

    with drawing_lock:
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        ax = figure.add_subplot()
        draw(timeline, ax, title=title, to_come=to_come, retries=retries)
        _move_legend(ax)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, pil_kwargs={"compress_level": 3})
        return buffer.getvalue()


def _move_legend(ax: Axes) -> None:
    """Let the legend begin at the picture's left edge: beside the axes, it would not fit."""
    from matplotlib.transforms import blended_transform_factory

    legend = ax.get_legend()
    if legend is not None:
        place = blended_transform_factory(ax.figure.transFigure, ax.transAxes)
        legend.set_bbox_to_anchor((0.02, 1.0), transform=place)


class Picture:
    """Draws the timeline of one view after the other, only on a change and not too often.

    Args:
        show: Takes the PNG, or None for no update, and its alt text.
        clock: Tells the seconds.
    """

    def __init__(
        self,
        show: Callable[[bytes | None, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show, self._clock = show, clock
        self._shown: _Drawn | None = None
        self._next = self._next_title = 0.0

    def is_due(self, view: PanelView) -> bool:
        """Tell whether there is something new to draw, and the last time is long enough ago."""
        same_title = self._shown is not None and view.title == self._shown[2]
        next_time = self._next if same_title else self._next_title
        return _drawn_of(view) != self._shown and self._clock() >= next_time

    def draw(self, view: PanelView) -> None:
        """Draw the view's timeline and show it."""
        self._shown = _drawn_of(view)  # what cannot be drawn is not tried again and again
        if view.timeline is None:
            self._show(None, "")
            import_module("fwupdate_helpers.timeline_figure")  # now, while nobody waits for it
            return
        began, to_come = self._clock(), view.stages[view.stages_begun :]
        png = timeline_png(view.timeline, title=view.title, to_come=to_come, retries=view.retries)
        took = self._clock() - began
        self._next = began + max(_PAUSE_SECONDS, (1 + _PAUSE_SHARE) * took)
        self._next_title = began + _PAUSE_SECONDS
        self._show(png, view.timeline.alt_text + retries_told(len(view.retries)))


def _drawn_of(view: PanelView) -> _Drawn:
    return view.timeline, view.stages, view.title, view.retries
