"""Rollouts by direct method over real devices on the real hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fwupdate_helpers.rollout import Outcome, RolloutOver, Status
from tests.images import Publisher, hub_of
from tests.rollouts import Bench
from tests.support import HubProcess, reported


@pytest.fixture
def bench(hub_process: HubProcess, tmp_path: Path) -> Iterator[Bench]:
    with hub_of(hub_process) as hub:
        bench = Bench(hub, Publisher(hub, tmp_path))
        yield bench
        bench.close()


def test_a_good_image_reaches_every_device_wave_after_wave(bench: Bench) -> None:
    ids = bench.online(8)
    rollout = bench.rollout(
        ids, bench.publisher.publish("2.0.0"), version="2.0.0", waves=(1, "25 %", "rest")
    )
    plan = rollout.plan()
    assert [len(wave.device_ids) for wave in plan.waves] == [1, 2, 5]
    assert bench.tag(ids[0]) == {}  # a dry run

    report = rollout.run()

    assert report.status is Status.COMPLETED
    assert report.updated == tuple(ids)
    assert bench.versions(ids) == ["2.0.0"] * 8
    begun = [
        reported(bench.hub.registry, each)["firmwareUpdate"]["stages"]["waiting"]["startedAt"]
        for each in ids
    ]
    ended = [reported(bench.hub.registry, each)["lastFirmwareUpdate"] for each in ids]
    assert ended[0] <= min(begun[1:3])
    assert max(ended[1:3]) <= min(begun[3:])
    assert [(bench.tag(each)["wave"], bench.tag(each)["outcome"]) for each in ids] == [
        (1, "completed"), (2, "completed"), (2, "completed"), *[(3, "completed")] * 5
    ]  # fmt: skip


def test_a_bad_image_stops_after_the_canary_and_a_person_decides_what_then(bench: Bench) -> None:
    ids = bench.online(4)
    bad = bench.publisher.publish("2.0.0", behaviour="failsSelfTest")
    report = bench.rollout(ids, bad, version="2.0.0", waves=(1, "rest")).run()

    assert report.status is Status.STOPPED
    assert (report.failed, report.untouched) == ((ids[0],), tuple(ids[1:]))
    assert report.causes == {"selfTestFailed": 1}
    assert bench.versions(ids) == ["1.0.0"] * 4
    assert all("firmwareUpdate" not in reported(bench.hub.registry, each) for each in ids[1:])
    with pytest.raises(RolloutOver, match="past_failures"):
        bench.load().resume()
    report = bench.load().resume(past_failures=True)
    assert report.ids(Outcome.FAILED) == tuple(ids)
