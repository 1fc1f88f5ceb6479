"""The ipywidgets of a fleet board: a fixed place for everything that a `BoardView` tells."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Final

import ipywidgets

from fwupdate_helpers import colours
from fwupdate_helpers.fleet_view import (
    COMPLETED,
    FAILED,
    NOT_BEGUN,
    NOT_REACHED,
    ROLLED_BACK,
    UP_TO_DATE,
    FleetRow,
)
from fwupdate_helpers.widgets.board_view import ENDED, RUNNING, BoardView, device_options, sign_of
from fwupdate_helpers.widgets.html_parts import (
    FRAME,
    GREY,
    TEXT,
    html,
    ink,
    message_html,
    status_html,
)
from fwupdate_helpers.widgets.view import HUB_AWAY, HUB_REFUSES, Note

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH: Final = 900
_SIGNS: Final = {
    RUNNING: ("▶", colours.BLUE),
    ENDED: ("✔", colours.GREEN),
    HUB_AWAY: ("?", colours.ORANGE),
    HUB_REFUSES: ("?", colours.ORANGE),
}
_COLOURS: Final = {
    **colours.STAGE_COLOURS,
    COMPLETED: "#BBBBBB",
    UP_TO_DATE: "#BBBBBB",
    FAILED: colours.VERMILLION,
    ROLLED_BACK: colours.VERMILLION,
    NOT_BEGUN: "#FFFFFF",
    NOT_REACHED: "#FFFFFF",
}
_FIRST: Final = (COMPLETED, UP_TO_DATE, FAILED, ROLLED_BACK)
"""The bar grows from the left with what has ended."""


class BoardWidgets:
    """The widgets of one board.

    Args:
        name: What the board shows, for its first line.

    Attributes:
        root: The widget that holds all others.
        search: The field for a part of a device id.
        chooser: The list of devices.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._line, self._bar, self._counts = html(), html(), html()
        self._message, self._picture = html(), html()
        self._device, self._device_picture = html(), html()
        self._is_filling = False
        self.search: Any = ipywidgets.Text(
            placeholder="part of a device id", description="Find", layout={"width": "auto"}
        )
        self.chooser: Any = ipywidgets.Select(
            options=[], description="Device", rows=8, layout={"width": "auto"}
        )
        left = ipywidgets.VBox([self.search, self.chooser], layout={"flex": "1 1 330px"})
        right = ipywidgets.VBox(
            [self._device, self._device_picture], layout={"flex": "1 1 480px", "min_width": "0"}
        )
        self._boxes = [left, right]
        row: Any = ipywidgets.HBox(self._boxes, layout={"flex_flow": "row wrap"})
        self.root: Any = ipywidgets.VBox(
            [self._line, self._bar, self._counts, self._message, self._picture, row],
            layout={"width": "100%", "max_width": f"{WIDTH}px", "overflow": "hidden"},
        )
        self.show_device(None, None)
        self.show_picture(None, "")

    def on_choice(self, handler: Callable[[str | None], None]) -> None:
        """Have `handler` called with the id of a device that a person chooses."""

        def choose(change: Any) -> None:
            if not self._is_filling:
                handler(change["new"])

        self.chooser.observe(choose, names="value")

    def on_search(self, handler: Callable[[], None]) -> None:
        """Have `handler` called when a person types into the field."""
        self.search.observe(lambda _: handler(), names="value")

    def show(self, view: BoardView, chosen: str | None) -> None:
        """Show everything but the pictures; what is as it was is not sent again."""
        sign, colour = _SIGNS.get(view.state, ("•", GREY))
        self._line.value = status_html(self._name, view.text, sign=sign, colour=colour)
        self._bar.value = _bar_html(view)
        self._counts.value = _counts_html(view)
        self.show_message(view.message)
        self._offer(view.rows, chosen)

    def show_message(self, note: Note) -> None:
        """Show what happened and what to do."""
        self._message.value = message_html(note)

    def _offer(self, rows: Sequence[FleetRow], chosen: str | None) -> None:
        """Fill the list; the device that was chosen stays so as long as it is in it."""
        options = device_options(rows, self.search.value)
        kept = chosen if chosen in [device for _, device in options] else None
        is_as_before = options == list(self.chooser.options)
        if is_as_before and kept == self.chooser.value:
            return
        with self._filling(), self.chooser.hold_sync():
            if not is_as_before:
                self.chooser.options = options
            self.chooser.value = kept

    @contextmanager
    def _filling(self) -> Iterator[None]:
        self._is_filling = True
        try:
            yield
        finally:
            self._is_filling = False

    def show_picture(self, png: bytes | None, alt: str) -> None:
        """Show the fleet; None is an empty frame in its place."""
        self._picture.value = _picture_html(png, alt, "The updates of the fleet grow here.")

    def show_device(self, row: FleetRow | None, problem: Note | None) -> None:
        """Tell of one device; None asks to choose one."""
        self._device.value = _device_html(row, problem)

    def show_device_picture(self, png: bytes | None, alt: str) -> None:
        """Show the timeline of one device; None is nothing."""
        self._device_picture.value = _picture_html(png, alt, "") if png else ""

    def close(self) -> None:
        """Take the board off the page."""
        parts = [*self.root.children, self.search, self.chooser, *self._boxes]
        for widget in (*parts, self._device, self._device_picture, self.root):
            for part in (widget.layout, getattr(widget, "style", None), widget):
                if part is not None:  # ipywidgets keeps each of them until it is closed
                    part.close()


def _bar_html(view: BoardView) -> str:
    total = max(1, len(view.rows))
    order = [*_FIRST, *(state for state in reversed(view.counts) if state not in _FIRST)]
    pieces = "".join(
        f'<div style="width:{100 * view.counts[state] / total:.3f}%;'
        f'background:{_COLOURS.get(state, colours.YELLOW)}"></div>'
        for state in order
        if view.counts.get(state)
    )
    frame = f"{FRAME}height:18px;overflow:hidden;display:flex;background:#FFF;"
    aria = f'role="progressbar" aria-label="Fleet" aria-valuenow="{view.percent}" '
    aria += f'aria-valuemin="0" aria-valuemax="100" aria-valuetext="{escape(view.text)}"'
    return f'<div {aria} style="{frame}">{pieces}</div>'


def _counts_html(view: BoardView) -> str:
    items = "".join(_count_html(state, number) for state, number in view.counts.items())
    style = "display:flex;flex-wrap:wrap;gap:4px 6px;list-style:none;margin:0;padding:0;"
    return f'<ul aria-label="Devices by state" style="{TEXT}{style}font-size:15px">{items}</ul>'


def _count_html(state: str, number: int) -> str:
    if not number and state in (UP_TO_DATE, NOT_REACHED):  # they are rare
        return ""
    colour = _COLOURS.get(state, colours.YELLOW)
    badge = f"background:{colour};color:{ink(colour)};{FRAME}padding:0 6px;font-weight:bold;"
    style = "display:flex;gap:5px;margin:0;" + ("" if number else "opacity:0.55;")
    return f'<li style="{style}"><span style="{badge}">{number:,}</span> {escape(state)}</li>'


def _picture_html(png: bytes | None, alt: str, words: str) -> str:
    if png is None:
        centre = "display:flex;align-items:center;justify-content:center;font-size:15px;"
        return f'<div style="{TEXT}{FRAME}width:100%;height:120px;{centre}">{words}</div>'
    source = f'src="data:image/png;base64,{b64encode(png).decode()}"'
    style = "width:100%;display:block;"
    return f'<img alt="{escape(alt)}" decoding="sync" style="{style}" {source}>'


def _device_html(row: FleetRow | None, problem: Note | None) -> str:
    style = f"{TEXT}font-size:15px;padding:0 8px;overflow-wrap:anywhere;"
    if row is None:
        words = problem.text if problem else "Choose a device: its timeline and its last error."
        return f'<div style="{style}">{escape(words)}</div>'
    facts = [f"{sign_of(row)} {row.state}", "connected" if row.connected else "not connected"]
    facts += [f"wave {row.wave}"] if row.wave is not None else []
    facts += [f"version {row.version}"] if row.version else []
    lines = [f"<b>{escape(row.device_id)}</b>", escape(" · ".join(facts))]
    if row.has_failed:
        lines.append(f'<span role="alert">⚠ {escape(_error_of(row))}</span>')
    if problem:
        lines.append(escape(problem.text))
    return f'<div style="{style}">{"<br>".join(lines)}</div>'


def _error_of(row: FleetRow) -> str:
    error = row.timeline.error if row.timeline else None
    told = f": {error.message}" if error and error.message else ""
    return f"{row.error_code or row.state}{told}"
