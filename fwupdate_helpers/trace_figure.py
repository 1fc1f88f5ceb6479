"""The wire trace as a sequence diagram: three lifelines, and an arrow for each message."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final

from matplotlib.figure import Figure

from fwupdate_helpers.alt_text_figure import AltTextFigure
from fwupdate_helpers.colours import BLUE, GREEN, VERMILLION
from fwupdate_helpers.trace import DEVICE, HUB, SERVICE, Trace, TraceRow
from fwupdate_helpers.trace_words import has_failed, is_request, words_for

MAX_ROWS: Final = 30
_PLACES: Final = {SERVICE: 0.0, HUB: 1.0, DEVICE: 2.0}
_WIDTH, _ROW, _FRAME = 7.8, 0.68, 1.7
"""Inches: the figure, one message, and what stands above and below the messages."""
_LEFT, _RIGHT = -0.32, 2.3
_ADDRESS: Final = 31
_GREY: Final = "#666666"


def plot_sequence(trace: Trace, *, title: str | None = None) -> Figure:
    """Draw messages as a sequence diagram with the lifelines service, hub and device.

    Time runs downwards; the margin tells the milliseconds since the first message. Answers are
    dashed, failures carry a cross, acknowledgements are grey.

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
    left_out = len(trace) - len(shown)
    title = title or _title(trace)
    height = _FRAME + _ROW * len(shown) + (0.45 if left_out else 0)
    alt_text = f"{title}. {_told(shown)}" + (f" {_left_out(left_out)}" if left_out else "")
    figure = AltTextFigure(alt_text, figsize=(_WIDTH, height), layout="constrained")
    _Diagram(figure, shown).draw(title, _left_out(left_out) if left_out else "")
    return figure


def _empty(note: str) -> Figure:
    figure = AltTextFigure(note, figsize=(_WIDTH, 1.2))
    figure.text(0.02, 0.5, note, va="center", fontsize=12, wrap=True)
    return figure


def _title(trace: Trace) -> str:
    milliseconds = 1000 * (trace[-1].at - trace[0].at).total_seconds()
    messages = "1 message" if len(trace) == 1 else f"{len(trace)} messages"
    return f"{words_for(trace[0]).capitalize()}: {messages} in {_duration(milliseconds)}"


def _duration(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def _told(trace: Trace) -> str:
    steps = (f"{row.source} to {row.target}: {words_for(row)}" for row in trace)
    return "; ".join(steps) + "."


def _left_out(number: int) -> str:
    return (
        f"{number} later messages are not drawn. Narrow the trace with after= or kinds=, "
        "for example kinds=['methods']."
    )


class _Diagram:
    """One trace on one figure."""

    def __init__(self, figure: Figure, trace: Trace) -> None:
        self.trace = trace
        self.ax = figure.add_subplot()
        self.answered = {row.answers for row in trace if not row.is_acknowledgement}

    def draw(self, title: str, note: str) -> None:
        ax, rows = self.ax, len(self.trace)
        ax.set_xlim(_LEFT, _RIGHT)
        ax.set_ylim(rows - 0.3, -1.05)
        ax.axis("off")
        ax.set_title(title, loc="left", fontsize=14, fontweight="bold", wrap=True)
        self._draw_lifelines(rows)
        for place, row in enumerate(self.trace):
            self._draw_row(place, row)
        if note:
            style: dict[str, Any] = {"fontsize": 11, "color": "black", "va": "top", "wrap": True}
            ax.text(_LEFT, rows - 0.25, note, **style)

    def _draw_lifelines(self, rows: int) -> None:
        box: dict[str, Any] = {"boxstyle": "round,pad=0.35", "facecolor": "white", "linewidth": 2}
        for name, x in _PLACES.items():
            self.ax.plot([x, x], [-0.62, rows - 0.35], color="#999999", linewidth=2, zorder=1)
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 13}
            self.ax.text(x, -0.8, name, bbox=box, fontweight="bold", zorder=3, **style)
        for x, protocol in ((0.5, "HTTPS"), (1.5, "MQTT")):
            style = {"ha": "center", "va": "center", "fontsize": 11, "color": _GREY}
            self.ax.text(x, -0.8, protocol, **style)

    def _draw_row(self, place: int, row: TraceRow) -> None:
        begin, end = _PLACES[row.source], _PLACES[row.target]
        colour = _colour(row)
        arrow = {"arrowstyle": "-|>,head_width=0.3,head_length=0.6", "color": colour, "lw": 2.2}
        arrow |= {"shrinkA": 0, "shrinkB": 0, "linestyle": "--" if _is_answer(row) else "-"}
        self.ax.annotate("", (end, place), (begin, place), arrowprops=arrow, zorder=2)
        middle = (begin + end) / 2
        style: dict[str, Any] = {"ha": "center", "zorder": 4, "parse_math": False}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9}
        text_colour = _GREY if row.is_acknowledgement else "black"
        words: dict[str, Any] = {"fontsize": 12, "color": text_colour, "va": "bottom"}
        self.ax.text(middle, place - 0.07, self._label(row), **words, **style)
        address: dict[str, Any] = {
            "fontsize": 11,
            "color": _GREY,
            "va": "top",
            "family": "monospace",
        }
        self.ax.text(middle, place + 0.08, _address(row), **address, **style)
        since = 1000 * (row.at - self.trace[0].at).total_seconds()
        time: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 11, "color": _GREY}
        self.ax.text(_LEFT + 0.24, place, _duration(since) if place else "0 ms", **time)

    def _label(self, row: TraceRow) -> str:
        words = words_for(row)
        if has_failed(row):
            return f"✖ {words}"
        if is_request(row) and row.number not in self.answered:
            return f"{words} · no answer seen"
        return words


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
    if _is_answer(row) and SERVICE in (row.source, row.target):
        name = HTTPStatus(row.status or 0).phrase if has_failed(row) else row.what
        return f"{row.status} {name}"
    text = re.sub("^(UN)?(PUBLISH|SUBSCRIBE) ", "", row.what)
    text = re.sub(r"\$rid=([^&]{4})[^&]+", r"$rid=\1…", text)
    text = re.sub(r"^(\w+) /(twins|devices)/[^/]+", r"\1 /\2/…", text)
    text = text.replace("/PATCH/properties/", "/PATCH/…/")
    if len(text) > _ADDRESS:
        text = text.partition("?")[0]  # the words tell of the version, and the table of the rest
    if len(text) <= _ADDRESS:
        return text
    half = (_ADDRESS - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
