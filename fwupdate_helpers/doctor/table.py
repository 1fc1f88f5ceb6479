"""The report as a table of text, for terminals of any width and any character set."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from fwupdate_helpers.doctor.report import (
    FAILURE,
    MARKERS,
    NOT_CHECKED,
    OK,
    WARNING,
    Line,
    Report,
)

_PLAIN_MARKERS: Final = {OK: "+", WARNING: "!", FAILURE: "X", NOT_CHECKED: "-"}
_STATE_WIDTH: Final = 2 + max(map(len, MARKERS))
_GAP: Final = "  "
_NARROWEST: Final = 24
"""Columns that what was found has at least, in however narrow a terminal."""


def as_text(report: Report, *, width: int = 100, encoding: str = "utf-8") -> str:
    """Return the report as aligned text.

    Args:
        report: The report.
        width: Columns of the terminal. Only commands, which are to be copied, and words that fit
            nowhere may be longer.
        encoding: What the terminal can show; markers that it cannot are replaced by plain ones.
    """
    markers = _markers(encoding)
    title_width = max((len(line.title) for line in report.lines), default=0)
    margin = _STATE_WIDTH + title_width + 2 * len(_GAP)
    rows: list[str] = []
    for line in report.lines:
        state = f"{markers[line.state]} {line.state}"
        head = f"{state:{_STATE_WIDTH}}{_GAP}{line.title:{title_width}}{_GAP}"
        rows += _rows(line, head, max(width - margin, _NARROWEST))
    rows += ["", *textwrap.wrap(report.summary, max(width, _NARROWEST))]
    return "\n".join(rows)


def _rows(line: Line, head: str, room: int) -> Iterator[str]:
    finding = line.finding
    words = _wrap(finding.found, room)
    if finding.fix:
        words += _wrap(f"Fix: {finding.fix}", room)
    for number, text in enumerate(words or [""]):
        yield ((head if number == 0 else " " * len(head)) + text).rstrip()
    # A command that does not fit goes to the left, because a broken one cannot be copied.
    fits = max(map(len, finding.commands), default=0) + 4 <= room
    indent = " " * (len(head) + 4 if fits else 4)
    for command in finding.commands:
        yield indent + command


def _wrap(text: str, room: int) -> list[str]:
    # Paths and versions stay whole where they can.
    return textwrap.wrap(text, room, break_on_hyphens=False)


def _markers(encoding: str) -> dict[str, str]:
    try:
        "".join(MARKERS.values()).encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return _PLAIN_MARKERS
    return MARKERS
