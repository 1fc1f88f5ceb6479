"""What a check found, and the report that is made of all findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.palette import BLUE, ORANGE, PALE, VERMILLION, badge

if TYPE_CHECKING:
    Json = dict[str, Any]  # read by Python 3.8, it would be an error

OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"
NOT_CHECKED: Final = "not checked"

MARKERS: Final = {OK: "●", WARNING: "▲", FAILURE: "✖", NOT_CHECKED: "○"}
_COLOURS: Final = {OK: BLUE, WARNING: ORANGE, FAILURE: VERMILLION, NOT_CHECKED: PALE}
_LEFT: Final = 'style="text-align:left; vertical-align:top"'


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        state: ``"ok"``, ``"warning"``, ``"failure"`` or ``"not checked"``.
        found: What there is, in words.
        fix: What to do, in words; empty where nothing is to be done.
        commands: What to type for it, line by line.
    """

    state: str
    found: str
    fix: str = ""
    commands: tuple[str, ...] = ()


def ok(found: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(OK, found)


def warning(found: str, fix: str, *commands: str) -> Finding:
    """Return a finding that the notebooks can live with."""
    return Finding(WARNING, found, fix, commands)


def failure(found: str, fix: str, *commands: str) -> Finding:
    """Return a finding that the notebooks cannot live with."""
    return Finding(FAILURE, found, fix, commands)


def not_checked(reason: str, first: str) -> Finding:
    """Return a finding of a check that could not run before another line, `first`, is mended."""
    return Finding(NOT_CHECKED, reason, f"Mend '{first}' first.")


@dataclass(frozen=True)
class Line:
    """A line of the report: a check's name, what it found, and how long it took.

    Attributes:
        id: A stable name for programs; `checks.all_checks` has them all.
        title: A name for people.
        finding: What was found.
        seconds: How long the check took.
    """

    id: str
    title: str
    finding: Finding
    seconds: float

    @property
    def state(self) -> str:
        """``"ok"``, ``"warning"``, ``"failure"`` or ``"not checked"``."""
        return self.finding.state


@dataclass(frozen=True)
class Report:
    """The lines of a check of this machine. In a notebook it shows itself as a table.

    Attributes:
        lines: One for each check, in the order in which they ran.
        about: What machine it was: ``kit`` (version), ``python`` (version), ``system``.

    Example:
        >>> report = Report([Line("python", "Python", ok("3.11.7"), 0.0)], {})
        >>> report.ok, report.summary
        (True, 'This machine is ready.')
    """

    lines: Sequence[Line]
    about: Json

    @property
    def ok(self) -> bool:
        """Whether nothing failed and every check could run; warnings are allowed."""
        return all(line.state in (OK, WARNING) for line in self.lines)

    @property
    def summary(self) -> str:
        """One sentence that tells whether the machine is ready."""
        failures, warnings = self._count(FAILURE), self._count(WARNING)
        if self.ok:
            told = f" {_number(warnings, WARNING)} can wait." if warnings else ""
            return f"This machine is ready.{told}"
        told = ", ".join(
            _number(count, word)
            for count, word in ((failures, FAILURE), (warnings, WARNING))
            if count
        )
        return f"This machine is not ready: {told}. Begin with the first failure, then check again."

    def _count(self, state: str) -> int:
        return sum(line.state == state for line in self.lines)

    def as_json(self) -> Json:
        """Return the report as an object for JSON, without secrets.

        Its keys are stable: ``format`` (1), ``ok``, ``summary``, ``kit``, ``python``, ``system``,
        ``seconds``, and ``lines``, a list of objects with ``id``, ``title``, ``state``, ``found``,
        ``fix``, ``commands`` (a list) and ``seconds``. A later version may add keys. The user's
        home folder is written ``~``.
        """
        lines = [
            {
                "id": line.id,
                "title": line.title,
                "state": line.state,
                "found": line.finding.found,
                "fix": line.finding.fix,
                "commands": list(line.finding.commands),
                "seconds": round(line.seconds, 3),
            }
            for line in self.lines
        ]
        seconds = round(sum(line.seconds for line in self.lines), 3)
        head = {"format": 1, "ok": self.ok, "summary": self.summary, **self.about}
        return {**head, "seconds": seconds, "lines": lines}

    def __repr__(self) -> str:
        from fwupdate_helpers.doctor.table import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        has_fixes = any(line.finding.fix or line.finding.commands for line in self.lines)
        names = _HEADS if has_fixes else _HEADS[:-1]
        heads = "".join(f'<th scope="col" {_LEFT}>{name}</th>' for name in names)
        rows = "".join(_row(line, columns=len(names)) for line in self.lines)
        return (
            f'<table><caption style="text-align:left"><b>{escape(self.summary)}</b></caption>'
            f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        )


_HEADS: Final = ("what", "state", "found", "what to do")


def _row(line: Line, *, columns: int) -> str:
    finding = line.finding
    state = badge(MARKERS[line.state], line.state, _COLOURS[line.state])
    commands = "".join(f"<br><code>{escape(command)}</code>" for command in finding.commands)
    cells = (state, escape(finding.found), escape(finding.fix) + commands)
    inner = "".join(f"<td {_LEFT}>{cell}</td>" for cell in cells[: columns - 1])
    title = f'<span style="white-space:nowrap">{escape(line.title)}</span>'
    return f'<tr><th scope="row" {_LEFT}>{title}</th>{inner}</tr>'


def _number(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
