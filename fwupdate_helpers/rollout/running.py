"""From wave to wave: run one, write down how it ended, decide whether the next one may begin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.errors import DeviceNotFound
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.rollout.following import WaveRun
from fwupdate_helpers.rollout.ledger import Ledger
from fwupdate_helpers.rollout.outcomes import FAILURES, Outcome, Result, Threshold
from fwupdate_helpers.rollout.report import WORDS, RolloutReport
from fwupdate_helpers.rollout.session import Session
from fwupdate_helpers.rollout.state import RolloutState
from fwupdate_helpers.rollout.terms import Status, result_patch
from fwupdate_helpers.rollout.twin_tags import write_tag

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

OnChange = Callable[[RolloutReport], object]
_PAUSE_STEP: Final = 0.25


class Runner:
    """Runs the waves of a rollout that this kernel owns.

    Args:
        session: Open connections.
        state: Who takes part; results are added to it.
        ledger: The record on the hub.
        events: Where it is told what happens.
        on_change: Called with a report after every change.
    """

    def __init__(
        self,
        session: Session,
        state: RolloutState,
        ledger: Ledger,
        *,
        events: EventLog,
        on_change: OnChange | None,
    ) -> None:
        self._session, self._state, self._ledger = session, state, ledger
        self._events, self._on_change = events, on_change
        self._told: RolloutReport | None = None
        self._known = set(state.results)
        self._orders = session.orders(state.terms)

    def run(self) -> None:
        """Run wave after wave, to the last one or to one that must not be followed by another."""
        self._tell()
        while (wave := self._next_wave()) is not None:
            self._pause()
            self._run_wave(wave)
            if self._close_wave(wave) is Status.STOPPED:
                self._orders.give_up(wave)
                self._note("stopped", self._title)
                return
        if self._ledger.progress.status is not Status.COMPLETED:
            self._ledger.save(self._ledger.progress.with_(status=Status.COMPLETED, reason=""))
        self._note("completed", self._title)

    @property
    def _title(self) -> str:
        return self._state.report(self._ledger.progress).title

    def _next_wave(self) -> int | None:
        progress = self._ledger.progress
        is_open = progress.status is Status.RUNNING and progress.wave > 0
        wave = progress.wave if is_open else progress.wave + 1
        return wave if wave <= len(self._state.waves) else None

    def _pause(self) -> None:
        progress = self._ledger.progress
        if progress.status is not Status.PAUSED or progress.wave_ended_at is None:
            return
        pause = timedelta(seconds=self._state.terms.limits.pause_seconds)
        while (left := progress.wave_ended_at + pause - datetime.now(timezone.utc)) > timedelta():
            time.sleep(min(_PAUSE_STEP, left.total_seconds()))
            self._ledger.beat()

    def _run_wave(self, wave: int) -> None:
        progress = self._ledger.progress
        self._ledger.save(
            progress.with_(status=Status.RUNNING, wave=wave, wave_ended_at=None, reason="")
        )
        devices = self._state.waves[wave - 1].device_ids
        self._note("wave-began", f"Wave {wave} has begun: {len(devices):,} devices.")
        results = self._state.results_of(wave)
        run = WaveRun(
            self._state.terms,
            wave,
            devices,
            results=results,
            members=self._session.members,
            orders=self._orders,
            pace=self._session.pace(len(devices)),
            tell=lambda: self._take(results),
            alive=self._ledger.beat,
        )
        run.run()

    def _take(self, results: dict[str, Result]) -> None:
        """Note new results, show that this kernel lives, tell of changes."""
        for device_id in results.keys() - self._known:
            self._known.add(device_id)
            self._state.results[device_id] = result = results[device_id]
            if result.outcome in FAILURES:
                code = f": {result.code}" if result.code else ""
                self._events.add("failed", f"{device_id} {WORDS[result.outcome]}{code}.")
        self._ledger.beat()
        self._tell()

    def _close_wave(self, wave: int) -> Status:
        """Write down how a wave ended; return whether the next one may begin."""
        self._write_results(self._state.waves[wave - 1].device_ids)
        report = self._state.report(self._ledger.progress).waves[wave - 1]
        threshold = Threshold(self._state.terms.limits.abort_at)
        objection = threshold.objection(report.results.values())
        passed = Status.PAUSED if wave < len(self._state.waves) else Status.COMPLETED
        status = Status.STOPPED if objection else passed
        now, reason = datetime.now(timezone.utc), objection or ""
        progress = self._ledger.progress
        self._ledger.save(progress.with_(status=status, wave_ended_at=now, reason=reason))
        self._note("wave-ended", f"Wave {wave} has ended: {report.ends}.")
        return status

    def _write_results(self, device_ids: Iterable[str]) -> None:
        def write(registry: IoTHubRegistryManager, device_id: str) -> None:
            result = self._state.results[device_id]
            with suppress(DeviceNotFound):
                policy = self._session.options.policy
                write_tag(registry, device_id, result_patch(result), policy=policy)

        calls = [
            partial(write, device_id=each)
            for each in device_ids
            if self._state.results[each].outcome is not Outcome.GONE
        ]
        self._session.pool.gather(calls, tick=self._ledger.beat)

    def _note(self, kind: str, text: str) -> None:
        self._events.add(kind, text)
        self._tell()

    def _tell(self) -> None:
        report = self._state.report(self._ledger.progress)
        if self._on_change is not None and report != self._told:
            self._told = report
            self._on_change(report)
