"""The growing timeline of a panel, as a PNG; matplotlib loads with the first one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Final

from fwupdate_helpers.timeline import UpdateTimeline
from fwupdate_helpers.widgets.view import PanelView

WIDTH, HEIGHT = 5.0, 3.4
"""Inches. Shown 480 pixels wide or more, the smallest text (11 pt) is 11 pt on the screen."""
_DPI: Final = 200
_PAUSE_SECONDS: Final = 0.5
_PAUSE_SHARE: Final = 4.0
"""Drawing takes no more than a fifth of the time, however slow the computer is."""

_drawing = threading.Lock()


def timeline_png(timeline: UpdateTimeline, *, title: str, to_come: Sequence[str]) -> bytes:
    """Draw a timeline in any thread, whatever matplotlib's backend is.

    Args:
        timeline: The update.
        title: One short line.
        to_come: The stages that have not begun; their rows are there, so that nothing jumps.
    """
    from matplotlib.figure import Figure

    from fwupdate_helpers.timeline_figure import draw

    with _drawing:  # the panels of a kernel share matplotlib's caches of fonts
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw(timeline, figure.add_subplot(), title=title, to_come=to_come)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, pil_kwargs={"compress_level": 3})
        return buffer.getvalue()


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
        self._shown: tuple[Any, ...] = (None, (), "")
        self._next = 0.0

    def update(self, view: PanelView) -> None:
        """Draw what has changed; put it off to a later call when the last time was just now."""
        wanted = (view.timeline, view.stages, view.title)
        began = self._clock()
        if began < self._next or wanted == self._shown:
            return
        self._shown = wanted  # what cannot be drawn is not tried again and again
        if view.timeline is None:
            self._show(None, "")
            return
        to_come = view.stages[view.stages_begun :]
        png = timeline_png(view.timeline, title=view.title, to_come=to_come)
        self._next = began + max(_PAUSE_SECONDS, _PAUSE_SHARE * (self._clock() - began))
        self._show(png, view.timeline.alt_text)
