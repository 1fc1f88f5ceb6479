"""The wire trace as a sequence diagram: three lifelines, and an arrow for each message."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.colours import BLUE, GREEN, VERMILLION
from fwupdate_helpers.trace import DEVICE, HUB, SERVICE, Trace, TraceRow
from fwupdate_helpers.trace_words import has_failed, is_request, words_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

MAX_ROWS: Final = 30
NO_ANSWER: Final = "no answer seen"
_PLACES: Final = {SERVICE: 0.0, HUB: 1.0, DEVICE: 2.0}
_WIDTH, _ROW, _FRAME, _LINE = 7.8, 0.68, 1.7, 0.25
"""Inches: the figure, one message, what stands above and below the messages, a line of text."""
_GAP: Final = 2.86
"""Inches for text between two lifelines."""
_TITLE_LETTERS, _NOTE_LETTERS = 64, 88
"""Of bold text in 14 pt and of text in 11 pt, across the figure."""
_LEFT, _RIGHT = -0.32, 2.3
_ADDRESS: Final = 31
_GREY: Final = "#666666"
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def plot_sequence(trace: Trace, *, title: str | None = None) -> Figure:
    """Draw messages as a sequence diagram with the lifelines service, hub and device.

    Time runs downwards; the margin tells the milliseconds since the first message. Answers are
    dashed, failures carry a cross, acknowledgements are grey. Under a request that nothing in the
    trace answers, an open end says so.

    Args:
        trace: What `Hub.trace` returned; of more than 30 messages the first 30 are drawn.
        title: The figure's message; by default it tells what began, and how long all took.

    Returns:
        A figure with alt text, made without pyplot. An empty trace makes one that says why.

    Example:
        >>> plot_sequence(hub.trace(device_id, after=mark))  # doctest: +SKIP
    """
    if not len(trace):
        return _empty(trace.note or "No messages passed the hub.")
    shown = trace[:MAX_ROWS]
    waiting = _unanswered(trace)
    title = title or _title(trace)
    notes = [_left_out(len(trace) - len(shown)), trace.note]
    alt_text = " ".join([f"{title}. {_told(shown, waiting)}", *filter(None, notes)])
    heading = _wrapped(title, _TITLE_LETTERS)
    below = "\n".join(_wrapped(note, _NOTE_LETTERS) for note in notes if note)
    lines = heading.count("\n") + (below.count("\n") + 1 if below else 0)
    figure = _figure(alt_text, _FRAME + _ROW * len(shown) + _LINE * lines, layout="constrained")
    _Diagram(figure, shown, waiting).draw(heading, below)
    return figure


def _figure(alt_text: str, height: float, **options: Any) -> Figure:
    from fwupdate_helpers.alt_text_figure import AltTextFigure  # matplotlib loads with it

    return AltTextFigure(alt_text, figsize=(_WIDTH, height), **options)


def _empty(note: str) -> Figure:
    lines = len(textwrap.wrap(note, _NOTE_LETTERS - 8))
    figure = _figure(note, 0.6 + _LINE * lines)
    figure.text(0.02, 0.5, note, va="center", fontsize=12, wrap=True, parse_math=False)
    return figure


def _wrapped(text: str, letters: int) -> str:
    return textwrap.fill(text, letters, max_lines=4, placeholder=" …")


def _unanswered(trace: Trace) -> set[int]:
    """Return the numbers of the requests that nothing in the whole trace answers."""
    answered = {row.answers for row in trace if not row.is_acknowledgement}
    return {row.number for row in trace if is_request(row) and row.number not in answered}


def _title(trace: Trace) -> str:
    milliseconds = 1000 * (trace[-1].at - trace[0].at).total_seconds()
    messages = "1 message" if len(trace) == 1 else f"{len(trace)} messages"
    words = _shortened(words_for(trace[0]), _ADDRESS)
    return f"{words[0].upper()}{words[1:]}: {messages} in {_duration(milliseconds)}"


def _duration(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def _told(trace: Trace, waiting: Collection[int]) -> str:
    return "; ".join(f"{row.source} to {row.target}: {_step(row, waiting)}" for row in trace) + "."


def _step(row: TraceRow, waiting: Collection[int]) -> str:
    words = _shortened(words_for(row), 2 * _ADDRESS)
    if row.number in waiting:
        return f"{words}, {NO_ANSWER}"
    return f"{words} (failed)" if has_failed(row) else words


def _left_out(number: int) -> str:
    if not number:
        return ""
    messages = "1 later message is" if number == 1 else f"{number} later messages are"
    return (
        f"{messages} not drawn. Narrow the trace with after= or kinds=, for example "
        "kinds=['methods']."
    )


class _Diagram:
    """One trace on one figure."""

    def __init__(self, figure: Figure, trace: Trace, waiting: Collection[int]) -> None:
        self.trace, self.waiting = trace, waiting
        self.ax, self.dpi = figure.add_subplot(), figure.dpi

    def draw(self, title: str, note: str) -> None:
        ax, rows = self.ax, len(self.trace)
        below = (note.count("\n") + 1) * _LINE / _ROW if note else 0
        ax.set_xlim(_LEFT, _RIGHT)
        ax.set_ylim(rows - 0.3 + below, -1.05)
        ax.axis("off")
        style: dict[str, Any] = {"fontweight": "bold", "parse_math": False}
        ax.set_title(title, loc="left", fontsize=14, **style)
        self._draw_lifelines(rows)
        for place, row in enumerate(self.trace):
            self._draw_row(place, row)
        if note:
            style = {"fontsize": 11, "color": "black", "va": "top", "parse_math": False}
            # Its place is in `below`; its width shall not push the lifelines together.
            ax.text(_LEFT, rows - 0.25, note, in_layout=False, **style)

    def _draw_lifelines(self, rows: int) -> None:
        box: dict[str, Any] = {"boxstyle": "round,pad=0.35", "facecolor": "white", "linewidth": 2}
        for name, x in _PLACES.items():
            self.ax.plot([x, x], [-0.62, rows - 0.35], color="#999999", linewidth=2, zorder=1)
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 13}
            self.ax.text(x, -0.8, name, bbox=box, fontweight="bold", zorder=3, **style)
        images = any(row.kind == "image" for row in self.trace)
        for x, protocol in ((0.5, "HTTPS"), (1.5, "MQTT, image: HTTPS" if images else "MQTT")):
            style = {"ha": "center", "va": "center", "fontsize": 11, "color": _GREY}
            self.ax.text(x, -0.8, protocol, **style)

    def _draw_row(self, place: int, row: TraceRow) -> None:
        begin, end = _PLACES[row.source], _PLACES[row.target]
        arrow: dict[str, Any] = {"arrowstyle": "-|>,head_width=0.3,head_length=0.6", "lw": 2.2}
        arrow |= {"shrinkA": 0, "shrinkB": 0, "linestyle": "--" if _is_answer(row) else "-"}
        arrow["color"] = _colour(row)
        self.ax.annotate("", (end, place), (begin, place), arrowprops=arrow, zorder=2)
        self._draw_words(place, row)
        if row.number in self.waiting:
            self._draw_open_end(place + 0.46, row)
        since = 1000 * (row.at - self.trace[0].at).total_seconds()
        time: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 11, "color": _GREY}
        self.ax.text(_LEFT + 0.24, place, _duration(since) if place else "0 ms", **time)

    def _draw_words(self, place: int, row: TraceRow) -> None:
        middle = (_PLACES[row.source] + _PLACES[row.target]) / 2
        style: dict[str, Any] = {"ha": "center", "zorder": 4, "parse_math": False}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9}
        words: dict[str, Any] = {"fontsize": 12, "va": "bottom"}
        words["color"] = _GREY if row.is_acknowledgement else "black"
        label = f"✖ {words_for(row)}" if has_failed(row) else words_for(row)
        _fit(self.ax.text(middle, place - 0.07, label, **words, **style), self.dpi)
        address: dict[str, Any] = {"fontsize": 11, "color": _GREY, "va": "top"}
        address["family"] = "monospace"
        _fit(self.ax.text(middle, place + 0.08, _address(row), **address, **style), self.dpi)

    def _draw_open_end(self, y: float, row: TraceRow) -> None:
        """Let an answer begin that does not arrive, and say so."""
        begin = _PLACES[row.target]
        back = 1 if _PLACES[row.source] > begin else -1
        end, colour = begin + 0.14 * back, _colour(row)
        self.ax.plot([begin, end], [y, y], color=colour, linewidth=2.2, linestyle=":", zorder=2)
        ring: dict[str, Any] = {"marker": "o", "markersize": 8, "markeredgewidth": 2}
        ring |= {"markerfacecolor": "white", "markeredgecolor": colour, "linestyle": "none"}
        self.ax.plot([end], [y], zorder=3, **ring)
        style: dict[str, Any] = {"va": "center", "ha": "left" if back > 0 else "right"}
        self.ax.text(end + 0.03 * back, y, NO_ANSWER, fontsize=11, zorder=4, **style)


def _is_answer(row: TraceRow) -> bool:
    return row.answers is not None and not row.is_acknowledgement


def _colour(row: TraceRow) -> str:
    if has_failed(row):
        return VERMILLION
    if row.is_acknowledgement:
        return "#999999"
    return BLUE if SERVICE in (row.source, row.target) else GREEN


def _address(row: TraceRow) -> str:
    """Return what was on the wire, shortened where it does not fit between two lifelines."""
    if _is_answer(row) and (SERVICE in (row.source, row.target) or row.kind == "image"):
        name = _PHRASES.get(row.status or 0, "") if has_failed(row) else row.what
        return f"{row.status} {name.removeprefix('Partial Content ')}".rstrip()
    text = re.sub("^(UN)?(PUBLISH|SUBSCRIBE) ", "", row.what)
    text = re.sub(r"\$rid=([^&]{4})[^&]+", r"$rid=\1…", text)
    text = re.sub(r"^(\w+) /(twins|devices)/[^/]+", r"\1 /\2/…", text)
    text = text.replace("/PATCH/properties/", "/PATCH/…/")
    if len(text) > _ADDRESS:
        text = text.partition("?")[0]  # the words tell of the version, and the table of the rest
    return _shortened(text, _ADDRESS)


def _shortened(text: str, letters: int) -> str:
    """Leave out the middle of a text that is too long."""
    if len(text) <= letters:
        return text
    half = (letters - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _fit(text: Text, dpi: float) -> None:
    """Leave out the middle of what is drawn wider than the gap between two lifelines."""
    whole = text.get_text()
    letters, room = len(whole), _GAP * dpi
    while (width := text.get_window_extent().width) > room and letters > 3:
        letters = max(3, min(letters - 1, int(letters * room / width)))
        text.set_text(_shortened(whole, letters))
