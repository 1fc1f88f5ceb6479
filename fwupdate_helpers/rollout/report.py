"""What people see of a rollout: the plan before it, and the report while it runs and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from fwupdate_helpers.retry_rules import html_table
from fwupdate_helpers.rollout.outcomes import FAILURES, GOOD, Outcome, Result, percent
from fwupdate_helpers.rollout.terms import Status, Way
from fwupdate_helpers.rollout.waves import PlannedWave

_SHOWN_IDS: Final = 4
WORDS: Final = {
    Outcome.COMPLETED: "completed",
    Outcome.UP_TO_DATE: "up to date",
    Outcome.FAILED: "failed",
    Outcome.LATE: "late",
    Outcome.NOT_REACHED: "not reached",
    Outcome.GONE: "gone",
}
"""For each outcome what people read."""


@dataclass(frozen=True)
class RolloutPlan:
    """What a rollout would do. A notebook shows it as a table.

    Attributes:
        rollout_id: The rollout.
        way: How devices get their orders.
        version: The version that the image brings, where it is known.
        abort_at: See `Rollout`.
        pause_seconds: See `Rollout`.
        waves: The devices of each wave.
    """

    rollout_id: str
    way: Way
    version: str | None
    abort_at: float
    pause_seconds: float
    waves: tuple[PlannedWave, ...]

    @property
    def device_ids(self) -> tuple[str, ...]:
        """All devices, in their order."""
        return tuple(device_id for wave in self.waves for device_id in wave.device_ids)

    @property
    def title(self) -> str:
        """What it is, in a sentence."""
        version = f" to version {self.version}" if self.version else ""
        pause = f", with a pause of {self.pause_seconds:g} s between two" if len(self) > 1 else ""
        return (
            f"Rollout {self.rollout_id}: {len(self.device_ids):,} devices{version}, by "
            f"{self.way}, in {_waves(len(self))}{pause if self.pause_seconds else ''}. More than "
            f"{percent(self.abort_at)} failures in a wave stop it."
        )

    def __len__(self) -> int:
        return len(self.waves)

    def __str__(self) -> str:
        lines = (f"  {' · '.join(row)}" for row in self._rows())
        return "\n".join((self.title, *lines))

    def _rows(self) -> Iterable[tuple[str, str, str, str]]:
        for wave in self.waves:
            ids = ", ".join(wave.device_ids[:_SHOWN_IDS])
            more = len(wave.device_ids) - _SHOWN_IDS
            ids += f" and {more:,} more" if more > 0 else ""
            yield f"wave {wave.number}", wave.size, f"{len(wave.device_ids):,}", ids

    def _repr_html_(self) -> str:
        head = ("wave", "size", "devices", "which")
        # As in the report: the bare number. A narrow column must not break "10 %" in two.
        rows = (
            (wave.removeprefix("wave "), size.replace(" ", "\N{NO-BREAK SPACE}"), *more)
            for wave, size, *more in self._rows()
        )
        return f"<p>{escape(self.title)}</p>{html_table(head, rows)}"


@dataclass(frozen=True)
class WaveReport:
    """How far one wave is.

    Attributes:
        number: From 1.
        size: As it was written.
        device_ids: Its devices.
        results: The end on each device that is done with.
        lost: Devices that the plan had, and that the hub no longer shows.
    """

    number: int
    size: str
    device_ids: tuple[str, ...]
    results: Mapping[str, Result]
    lost: int = 0

    @property
    def is_over(self) -> bool:
        """Whether all devices are done with."""
        return len(self.results) == len(self.device_ids)

    def ids(self, *outcomes: Outcome) -> tuple[str, ...]:
        """Return the devices with one of these outcomes."""
        return tuple(each for each, result in self.results.items() if result.outcome in outcomes)

    @property
    def counts(self) -> dict[Outcome, int]:
        """For each outcome the number of devices, those that are lost included."""
        found = Counter(result.outcome for result in self.results.values())
        found[Outcome.GONE] += self.lost
        return {outcome: found[outcome] for outcome in Outcome}

    @property
    def ends(self) -> str:
        """How many devices ended in which way, in words."""
        parts = [f"{count:,} {WORDS[each]}" for each, count in self.counts.items() if count]
        return ", ".join(parts) or "no device"


@dataclass(frozen=True)
class RolloutReport:
    """How far a rollout is. A notebook shows it as a table.

    Attributes:
        rollout_id: The rollout.
        status: How far it is; see `Status`.
        wave: The wave that runs or ran last; 0 before the first.
        reason: Why it was stopped, or an empty text.
        waves: The report of each wave.
    """

    rollout_id: str
    status: Status
    wave: int
    reason: str
    waves: tuple[WaveReport, ...]

    def ids(self, *outcomes: Outcome) -> tuple[str, ...]:
        """Return the devices with one of these outcomes, in the order of the plan."""
        return tuple(device_id for wave in self.waves for device_id in wave.ids(*outcomes))

    @property
    def updated(self) -> tuple[str, ...]:
        """The devices that run the version: those that were updated, and that ran it already."""
        return self.ids(*GOOD)

    @property
    def failed(self) -> tuple[str, ...]:
        """The devices whose update failed, or told of no end in time."""
        return self.ids(*FAILURES)

    @property
    def not_reached(self) -> tuple[str, ...]:
        """The devices that got no order in time. They make a good list for a later rollout."""
        return self.ids(Outcome.NOT_REACHED)

    @property
    def untouched(self) -> tuple[str, ...]:
        """The devices of waves that have not begun."""
        later = (wave for wave in self.waves if wave.number > self.wave)
        return tuple(device_id for wave in later for device_id in wave.device_ids)

    @property
    def causes(self) -> dict[str, int]:
        """For each error code of a failure the number of devices, the most frequent first."""
        codes = Counter(
            result.code or result.outcome.value
            for wave in self.waves
            for result in wave.results.values()
            if result.outcome in FAILURES
        )
        return dict(codes.most_common())

    @property
    def title(self) -> str:
        """How far it is, in a sentence."""
        total = sum(len(wave.device_ids) for wave in self.waves)
        place = "in" if self.status is Status.RUNNING else "after"
        is_told = self.wave and self.status is not Status.COMPLETED
        where = f" {place} wave {self.wave}" if is_told else ""
        reason = f": {self.reason}" if self.reason else ""
        updated = f"{len(self.updated):,} of {total:,} devices run the version"
        return f"Rollout {self.rollout_id} {self.status.value}{where}{reason}. {updated}."

    def __str__(self) -> str:
        lines = (f"  wave {row[0]}: {', '.join(row[3:])}" for row in self._rows())
        return "\n".join((self.title, *lines))

    def __repr__(self) -> str:
        return f"<{self.title}>"

    def _rows(self) -> Iterable[tuple[str, ...]]:
        for wave in self.waves:
            left = len(wave.device_ids) - len(wave.results)
            state = f"{left:,} {'under way' if wave.number == self.wave else 'not begun'}"
            parts = ([wave.ends] if any(wave.counts.values()) else []) + ([state] if left else [])
            yield str(wave.number), wave.size, f"{len(wave.device_ids):,}", ", ".join(parts)

    def _repr_html_(self) -> str:
        head = ("wave", "size", "devices", "how they ended")
        return f"<p>{escape(self.title)}</p>{html_table(head, self._rows())}"


def _waves(count: int) -> str:
    return "1 wave" if count == 1 else f"{count} waves"


__all__ = ["WORDS", "RolloutPlan", "RolloutReport", "WaveReport"]
