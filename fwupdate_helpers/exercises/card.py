"""The card that a check returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from html import escape
from typing import Any, Final

from fwupdate_helpers.palette import BLUE, ORANGE, PURPLE, SKY, badge


class Outcome(Enum):
    """What a check can find."""

    NOT_ATTEMPTED = "not attempted"
    INCORRECT = "incorrect"
    CORRECT = "correct"
    NOT_CHECKABLE = "not checkable"


_MARKERS: Final = {
    Outcome.NOT_ATTEMPTED: "○",
    Outcome.INCORRECT: "▲",
    Outcome.CORRECT: "●",
    Outcome.NOT_CHECKABLE: "–",
}
_COLOURS: Final = {
    Outcome.NOT_ATTEMPTED: SKY,
    Outcome.INCORRECT: ORANGE,
    Outcome.CORRECT: BLUE,
    Outcome.NOT_CHECKABLE: PURPLE,
}


@dataclass(frozen=True)
class Card:
    """What a check has found, as a notebook shows it.

    Attributes:
        outcome: One of the four.
        seen: What was seen, in a sentence.
        expected: What was expected; empty where that says nothing new.
        look: Where to look next; empty when there is nothing to do.
    """

    outcome: Outcome
    seen: str
    expected: str = ""
    look: str = ""

    @property
    def _rows(self) -> dict[str, str]:
        rows = {"Seen": self.seen, "Expected": self.expected, "Look at": self.look}
        return {name: text for name, text in rows.items() if text}

    def __repr__(self) -> str:
        head = f"{_MARKERS[self.outcome]} {self.outcome.value}"
        return "\n".join([head, *(f"  {name}: {text}" for name, text in self._rows.items())])

    def _repr_html_(self) -> str:
        head = badge(_MARKERS[self.outcome], self.outcome.value, _COLOURS[self.outcome])
        left = 'style="text-align:left;vertical-align:top"'
        rows = "".join(
            f'<tr><th scope="row" {left}>{name}</th><td {left}>{escape(told)}</td></tr>'
            for name, told in self._rows.items()
        )
        return f'<div role="status">{head}<table>{rows}</table></div>'


def correct(seen: str) -> Card:
    """Return the card of a solved exercise."""
    return Card(Outcome.CORRECT, seen)


def incorrect(seen: str, *, expected: str, look: str) -> Card:
    """Return the card of an attempt that is not right yet."""
    return Card(Outcome.INCORRECT, seen, expected, look)


def not_attempted(todo: str) -> Card:
    """Return the card of an untouched stub; `todo` says what to do."""
    return Card(Outcome.NOT_ATTEMPTED, "The exercise is as it was.", look=todo)


def not_checkable(seen: str, *, look: str = "") -> Card:
    """Return the card of an exercise whose check cannot be done now."""
    return Card(Outcome.NOT_CHECKABLE, seen, look=look)


def short(value: Any, limit: int = 120) -> str:
    """Return a value as a learner would write it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
