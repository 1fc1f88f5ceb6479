"""Pieces of HTML that the widgets share, and the look that they have in common."""

from __future__ import annotations

from html import escape
from typing import Any, Final

import ipywidgets

from fwupdate_helpers import colours
from fwupdate_helpers.widgets.view import Note

GREY: Final = "#6E6E6E"
TEXT: Final = "color:var(--jp-content-font-color1,#000);line-height:1.4;"
FRAME: Final = "border:1px solid var(--jp-border-color1,#767676);border-radius:3px;"


def html() -> Any:
    """Return an empty HTML widget as wide as there is room."""
    layout = {"margin": "2px 0", "overflow": "hidden", "width": "100%"}
    return ipywidgets.HTML(layout=layout)


def status_html(name: str, text: str, *, sign: str, colour: str) -> str:
    """Return a line that tells a state, with a badge before it; screen readers read it aloud.

    Args:
        name: Whose state it is.
        text: Parts with `` · `` between them; a line breaks between two parts only.
        sign: One letter for the badge.
        colour: The badge's colour.
    """
    part = '<span style="display:inline-block">{}</span>'
    parts = " · ".join(part.format(escape(words)) for words in text.split(" · "))
    place = "display:flex;gap:9px;align-items:flex-start;min-height:70px;font-size:16px;"
    badge = f"background:{colour};color:{ink(colour)};border-radius:3px;width:26px;height:26px;"
    badge += "flex:none;text-align:center;line-height:26px;font-size:15px;"
    return (
        f'<div style="{TEXT}{place}"><span aria-hidden="true" style="{badge}">{sign}</span>'
        f'<div><div style="font-size:15px;overflow-wrap:anywhere">{escape(name)}</div>'
        f'<div role="status" style="font-weight:bold">{parts}</div></div></div>'
    )


def message_html(note: Note) -> str:
    """Return a note with a sign before it, in a place of a fixed height."""
    sign, colour = ("⚠", colours.VERMILLION) if note.is_error else ("ℹ", colours.BLUE)
    style = "height:4.3em;overflow-y:auto;font-size:15px;padding-left:8px;overflow-wrap:anywhere;"
    if not note.text:
        return f'<div style="{TEXT}{style}border-left:4px solid transparent"></div>'
    style += f"border-left:4px solid {colour};"
    role = "alert" if note.is_error else "note"
    return f'<div role="{role}" style="{TEXT}{style}">{sign} {escape(note.text)}</div>'


def ink(colour: str) -> str:
    """Return black or white, whichever reads better on `colour`."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#FFF" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#000"
