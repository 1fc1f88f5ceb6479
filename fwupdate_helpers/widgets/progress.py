"""How far an update is and how long it will still take: from twins and times, without any I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from fwupdate_helpers import contract
from fwupdate_helpers.reported import Stage, parse_time, section
from fwupdate_helpers.timeline import UpdateTimeline

SIMULATED_STAGES: Final = (contract.WAITING, contract.DOWNLOADING, contract.APPLYING)
"""The stages of an update without an image."""

_SHARES: Final = dict(zip(contract.STAGES, (10, 50, 10, 15, 15), strict=True))
_STALLED_SECONDS: Final = 2.0
_MOST_BEFORE_ITS_END: Final = 0.95
_SAMPLES: Final = 20
"""The speed of a download is that of its last 20 reports, about 10 seconds."""


@dataclass(frozen=True)
class Progress:
    """How far an update is.

    Attributes:
        percent: Of the whole update, 0 to 100; 100 only when it has completed.
        seconds_left: What is left, never negative; None while it cannot be known.
        of_download: Whether `seconds_left` is that of the download only, because nobody knows how
            long the stages after it take.
        is_late: Whether the stage takes much longer than it did the last time.
    """

    percent: int = 0
    seconds_left: float | None = None
    of_download: bool = False
    is_late: bool = False


def planned_stages(timeline: UpdateTimeline, reported: contract.Json) -> tuple[str, ...]:
    """Return the stages of an update: those that have begun, and those to come, in their order.

    Args:
        timeline: The update.
        reported: The reported properties that tell of it.
    """
    begun = tuple(stage.name for stage in timeline.stages)
    usual = SIMULATED_STAGES if _is_simulated(begun, reported) else contract.STAGES
    known = [usual.index(name) for name in begun if name in usual]
    return begun + usual[max(known, default=-1) + 1 :]


def _is_simulated(begun: tuple[str, ...], reported: contract.Json) -> bool:
    update = section(reported, contract.UPDATE)
    if contract.RECEIVED in update or contract.VERIFYING in begun:
        return False
    has_board = contract.FIRMWARE in reported
    return not has_board or bool(update.get(contract.PROGRESS)) or contract.APPLYING in begun


class ProgressMeter:
    """Measures updates of one device; remembers how long each stage took the last time."""

    def __init__(self) -> None:
        self._past: dict[str, float] = {}
        self._stage: tuple[str | None, Stage] | None = None
        self._since = 0.0
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)

    def measure(
        self, timeline: UpdateTimeline, reported: contract.Json, *, now: float, moving: bool
    ) -> Progress:
        """Tell how far the update is.

        Args:
            timeline: The update.
            reported: The reported properties that tell of it.
            now: Seconds of a clock that never goes back.
            moving: Whether the device can go on: it has power.
        """
        self._learn(timeline, reported)
        plan, last = planned_stages(timeline, reported), timeline.stages[-1]
        if timeline.outcome == contract.COMPLETED:
            return Progress(100, 0.0)
        if timeline.outcome or not moving:
            self._stage = None
            share = self._share(last, reported, now=None)
            return Progress(_percent(plan, last, share), 0.0 if timeline.outcome else None)
        self._follow(timeline, reported, now)
        percent = _percent(plan, last, self._share(last, reported, now))
        left = self._stage_left(last, reported, now)
        rest = [self._past.get(name) for name in plan[len(timeline.stages) :]]
        if left is not None and None not in rest:
            left += sum(seconds for seconds in rest if seconds)
            return Progress(percent, left, is_late=self._is_late(last, now))
        of_download = left is not None and last.name == contract.DOWNLOADING
        return Progress(percent, left if of_download else None, of_download=of_download)

    def _learn(self, timeline: UpdateTimeline, reported: contract.Json) -> None:
        """Remember the stages that went through; a time without power is none of a stage."""
        recovered_at = parse_time(section(reported, contract.UPDATE, contract.RECOVERY).get("at"))
        bad_end = timeline.outcome not in (None, contract.COMPLETED)
        for stage in timeline.stages[:-1] if bad_end else timeline.stages:
            if stage.seconds is None or stage.seconds < 0 or stage.ended_at is None:
                continue
            if recovered_at is None or not stage.started_at <= recovered_at <= stage.ended_at:
                self._past[stage.name] = stage.seconds

    def _follow(self, timeline: UpdateTimeline, reported: contract.Json, now: float) -> None:
        last = timeline.stages[-1]
        stage = (timeline.update_id, Stage(last.name, last.started_at))
        if stage != self._stage:
            self._stage, self._since = stage, now - _age(timeline)
            self._samples.clear()
        done = _done(reported)
        if not self._samples or self._samples[-1][1] != done:
            self._samples.append((now, done))

    def _share(self, stage: Stage, reported: contract.Json, now: float | None) -> float:
        """Return how much of the stage is done, 0 to 1."""
        if stage.ended_at is not None and stage.name != contract.DOWNLOADING:
            return 0.0  # it ended badly, or the next one has not been heard of
        if stage.name == contract.DOWNLOADING:
            progress = section(reported, contract.UPDATE).get(contract.PROGRESS)
            return min(1.0, max(0.0, progress)) if isinstance(progress, (int, float)) else 0.0
        past = self._past.get(stage.name)
        if now is None or not past:
            return 0.0
        return min(_MOST_BEFORE_ITS_END, max(0.0, (now - self._since) / past))

    def _stage_left(self, stage: Stage, reported: contract.Json, now: float) -> float | None:
        if stage.name == contract.DOWNLOADING:
            measured = self._download_left(reported, now)
            if measured is not None:
                return max(0.0, measured)
        past = self._past.get(stage.name)
        return None if past is None else max(0.0, past - (now - self._since))

    def _download_left(self, reported: contract.Json, now: float) -> float | None:
        """Return what is missing, divided by the speed so far."""
        (first, before), (last, done) = self._samples[0], self._samples[-1]
        missing = _total(reported) - done
        if missing <= 0:
            return 0.0
        if done <= before or last <= first:
            return None
        if now - last > _STALLED_SECONDS:  # nothing comes: the silence counts as well
            return missing * (now - first) / (done - before)
        return missing * (last - first) / (done - before) - (now - last)

    def _is_late(self, stage: Stage, now: float) -> bool:
        past = self._past.get(stage.name)
        if past is None or stage.name == contract.DOWNLOADING:
            return False
        return now - self._since > 1.5 * past + 2.0


def _percent(plan: tuple[str, ...], stage: Stage, share: float) -> int:
    shares = [_SHARES.get(name, 10) for name in plan]
    place = plan.index(stage.name)
    done = sum(shares[:place]) + share * shares[place]
    return min(99, int(100 * done / sum(shares)))


def _age(timeline: UpdateTimeline) -> float:
    """Return for how long the last stage has been known to run, by the hub's clock."""
    began, heard = timeline.stages[-1].hub_started_at, timeline.heard_at
    if began is None or heard is None:
        return 0.0
    return max(0.0, (heard - began).total_seconds())


def _done(reported: contract.Json) -> float:
    """Return what has arrived: bytes of an image, or the share of a simulated transfer."""
    update = section(reported, contract.UPDATE)
    key = contract.RECEIVED if contract.TOTAL in update else contract.PROGRESS
    value = update.get(key)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _total(reported: contract.Json) -> float:
    total = section(reported, contract.UPDATE).get(contract.TOTAL)
    return float(total) if isinstance(total, (int, float)) else 1.0
