"""A rollout as one kernel knows it: who is in which wave, and how it ended there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fwupdate_helpers.rollout.outcomes import Result
from fwupdate_helpers.rollout.report import RolloutPlan, RolloutReport, WaveReport
from fwupdate_helpers.rollout.terms import Progress, Tag, Terms
from fwupdate_helpers.rollout.waves import PlannedWave


@dataclass
class RolloutState:
    """What is known of a rollout.

    Attributes:
        terms: What it is to do.
        waves: Its devices.
        results: How it ended, for each device that is done with.
    """

    terms: Terms
    waves: tuple[PlannedWave, ...]
    results: dict[str, Result] = field(default_factory=dict)

    @classmethod
    def from_tags(cls, terms: Terms, tags: Mapping[str, Tag]) -> RolloutState:
        """Read it from the tags of the devices that take part, which are in their order."""
        waves = tuple(
            PlannedWave(number, size, tuple(each for each in tags if tags[each].wave == number))
            for number, (size, _) in enumerate(terms.sizes, 1)
        )
        results = {each: tag.result for each, tag in tags.items() if tag.result is not None}
        return cls(terms, waves, results)

    def results_of(self, wave: int) -> dict[str, Result]:
        """Return the results of one wave."""
        ids = self.waves[wave - 1].device_ids
        return {each: self.results[each] for each in ids if each in self.results}

    def plan(self) -> RolloutPlan:
        """Return the plan for people."""
        terms = self.terms
        return RolloutPlan(
            rollout_id=terms.rollout_id,
            way=terms.way,
            version=terms.image.version,
            abort_at=terms.limits.abort_at,
            pause_seconds=terms.limits.pause_seconds,
            waves=self.waves,
        )

    def report(self, progress: Progress) -> RolloutReport:
        """Return the report for people."""
        return RolloutReport(
            rollout_id=self.terms.rollout_id,
            status=progress.status,
            wave=progress.wave,
            reason=progress.reason,
            waves=tuple(
                WaveReport(
                    wave.number,
                    wave.size,
                    wave.device_ids,
                    self.results_of(wave.number),
                    lost=max(0, planned - len(wave.device_ids)),
                )
                for wave, (_, planned) in zip(self.waves, self.terms.sizes, strict=True)
            ),
        )
