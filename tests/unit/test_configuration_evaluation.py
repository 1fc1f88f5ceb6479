"""Evaluations of configurations that are interrupted, and when they happen; without a network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers.localhub.authentication import Authenticator
from fwupdate_helpers.localhub.configurations.evaluation import Evaluation
from fwupdate_helpers.localhub.configurations.loop import ConfigurationLoop
from fwupdate_helpers.localhub.configurations.specification import Specification
from fwupdate_helpers.localhub.configurations.store import ConfigurationStore
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.fault_wire import WireFaults
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.twin_changes import TwinChanges
from fwupdate_helpers.localhub.wiretrace import WireTrace

FIRST = Specification({"properties.desired.fw": {"v": 1, "old": 1}}, target_condition="*")
SECOND = Specification({"properties.desired.fw": {"v": 2}}, target_condition="*", priority=9)


def now() -> datetime:
    return datetime.now(timezone.utc)


def after_the_first_batch() -> Callable[[], bool]:
    return iter([False, True]).__next__


class Hub:
    """What an evaluation needs of a hub, on a database."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "hub.db", now)
        self.store = Store(self.database)
        authenticator = Authenticator({}, host_names=frozenset(), store=self.store, clock=now)
        devices = DeviceEndpoint(
            self.store, authenticator, DirectMethods(), now, WireTrace(now), WireFaults(now)
        )
        self.configurations = ConfigurationStore(self.database)
        self.twins = TwinChanges(self.store, devices)

    def create_devices(self, count: int) -> None:
        with self.database.transaction():
            for number in range(count):
                fields: Any = {"authentication": {}, "capabilities": {}, "status_reason": None}
                self.store.create(f"d-{number:03}", status="enabled", **fields)

    def evaluate(self, *, is_outdated: Callable[[], bool] = lambda: False) -> None:
        asyncio.run(Evaluation(self.configurations, self.twins).run(is_outdated))

    def firmware(self) -> list[Any]:
        """Return the desired firmware of all devices."""
        ids = [one.device_id for one in self.store.list(1000)]
        return [self.store.twin(one).desired.properties.get("fw") for one in ids]

    def close(self) -> None:
        self.database.close()


def test_an_evaluation_that_breaks_off_is_finished_by_the_next_hub(tmp_path: Path) -> None:
    with closing(Hub(tmp_path)) as hub:
        hub.create_devices(120)
        hub.configurations.create("first", FIRST)
        hub.evaluate(is_outdated=after_the_first_batch())
        assert hub.firmware() == [{"v": 1, "old": 1}] * 50 + [None] * 70
        assert hub.configurations.get("first").results == {}

    with closing(Hub(tmp_path)) as hub:
        hub.evaluate()
        assert hub.firmware() == [{"v": 1, "old": 1}] * 120
        assert {hub.store.twin(f"d-{n:03}").desired.version for n in range(120)} == {2}
        counted = {"targetedCount": 120, "appliedCount": 120}
        assert hub.configurations.get("first").results == {"system": counted, "custom": {}}


def test_a_stronger_one_takes_over_and_what_was_deleted_goes_across_restarts(
    tmp_path: Path,
) -> None:
    with closing(Hub(tmp_path)) as hub:
        hub.create_devices(60)
        hub.configurations.create("first", FIRST)
        hub.evaluate()
        hub.configurations.create("second", SECOND)
        hub.evaluate(is_outdated=after_the_first_batch())
        assert hub.firmware() == [{"v": 2}] * 50 + [{"v": 1, "old": 1}] * 10
        hub.configurations.delete("first")

    with closing(Hub(tmp_path)) as hub:
        hub.evaluate()
        assert hub.firmware() == [{"v": 2}] * 60
        assert hub.store.twin("d-059").configurations == {"second": {"status": "Applied"}}
        hub.configurations.delete("second")
        hub.evaluate(is_outdated=after_the_first_batch())

    with closing(Hub(tmp_path)) as hub:
        hub.evaluate()
        assert hub.firmware() == [None] * 60
        assert hub.configurations.marked_devices() == []


def test_an_evaluation_with_nothing_to_do_writes_no_twin(tmp_path: Path) -> None:
    with closing(Hub(tmp_path)) as hub:
        hub.create_devices(3)
        hub.configurations.create("first", FIRST)
        hub.evaluate()
        rows = "SELECT * FROM devices ORDER BY device_id"
        before = [tuple(row) for row in hub.database.connection.execute(rows)]
        hub.evaluate()
        assert [tuple(row) for row in hub.database.connection.execute(rows)] == before


def test_a_condition_that_cannot_be_evaluated_takes_nothing_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Hub(tmp_path)) as hub:
        hub.create_devices(2)
        hub.configurations.create("first", FIRST)
        hub.evaluate()
        broken = Specification(
            FIRST.device_content, target_condition="no condition", metrics={"m": "no query"}
        )
        hub.configurations.update("first", broken)
        hub.configurations.create("second", SECOND)
        with caplog.at_level(logging.WARNING):
            hub.evaluate()
        assert hub.store.twin("d-000").configurations["first"] == {"status": "Targeted"}
        assert "the target condition of first stays as it is" in caplog.text
        assert "metric m of first has no count" in caplog.text
        hub.configurations.delete("second")
        hub.evaluate()
        assert hub.firmware() == [{"v": 1, "old": 1}] * 2


# -- when -----------------------------------------------------------------------------------------


async def evaluations(
    work: Callable[[int, ConfigurationLoop, Callable[[], bool]], None],
    *,
    count: int,
    seconds: float,
) -> None:
    """Run a loop until it has evaluated `count` times."""
    done = asyncio.Event()
    runs = 0

    async def evaluate(is_outdated: Callable[[], bool]) -> None:
        nonlocal runs
        runs += 1
        if runs == count:
            done.set()
        work(runs, loop, is_outdated)

    loop = ConfigurationLoop(evaluate, seconds=seconds)
    task = asyncio.create_task(loop.run())
    try:
        await asyncio.wait_for(done.wait(), 30)
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_it_is_evaluated_again_and_again_also_after_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail_at_first(run: int, loop: ConfigurationLoop, is_outdated: Callable[[], bool]) -> None:
        if run == 1:
            raise RuntimeError("a fault of the hub")

    asyncio.run(evaluations(fail_at_first, count=3, seconds=0.01))

    assert "a fault of the hub" in caplog.text


def test_a_change_during_an_evaluation_makes_it_outdated_and_starts_the_next_at_once() -> None:
    seen = []

    def change(run: int, loop: ConfigurationLoop, is_outdated: Callable[[], bool]) -> None:
        seen.append(is_outdated())
        if run == 1:
            loop.configurations_changed()
            seen.append(is_outdated())

    asyncio.run(evaluations(change, count=2, seconds=3600))

    assert seen == [False, True, False]
