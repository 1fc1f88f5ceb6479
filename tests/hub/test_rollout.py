"""Rollouts over real devices on the real hub: waves, the stop, and what devices may be up to."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers import Fleet
from fwupdate_helpers.errors import FirmwareUpdateError, QueryRefused
from fwupdate_helpers.firmware import publish_image
from fwupdate_helpers.fleet_view import read_fleet
from fwupdate_helpers.rollout import (
    Outcome,
    RolloutConflict,
    RolloutExists,
    RolloutNotFound,
    RolloutOver,
    RolloutReport,
    Status,
)
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests.rollouts import SIMULATED, Bench
from tests.support import reported


@pytest.mark.long
def test_a_bad_image_touches_the_first_wave_of_200_devices_and_every_device_still_boots(
    bench: Bench, tmp_path: Path
) -> None:
    fleet = Fleet(
        bench.hub, 200, name=bench.rollout_id, stage_seconds=0.0, speeds=(None,), versions=["1.0.0"]
    )
    with fleet:
        file = tmp_path / "bad.img"
        fleet.build_image(file, "2.0.0", size=20_000, behaviour="failsSelfTest")
        bad = publish_image(bench.hub, file)

        report = bench.rollout(f"tags.fleet = '{fleet.name}'", bad, version="2.0.0").run()

        canary, *others = fleet.device_ids
        assert [len(wave.device_ids) for wave in report.waves] == [1, 20, 100, 79]
        assert (report.status, report.wave) == (Status.STOPPED, 1)
        assert (report.failed, report.untouched) == ((canary,), tuple(others))
        assert report.causes == {"selfTestFailed": 1}
        assert set(fleet.states().values()) == {"online"}
        rows = read_fleet(bench.hub, f"tags.rollout.id = '{bench.rollout_id}'")
        assert {row.version for row in rows} == {"1.0.0"}
        assert [row.device_id for row in rows if row.timeline] == [canary]
        # Off and on again: what they boot is the version that they had.
        rebooted = [canary, *others[:3], *others[-3:]]
        fleet.switch_off(rebooted)
        fleet.switch_on(rebooted)
        for device_id in rebooted:
            firmware = reported(bench.hub.registry, device_id)["firmware"]
            assert (firmware["currentFwVersion"], firmware["slots"]["active"]) == ("1.0.0", "a")
    fleet.delete()


def test_a_good_image_reaches_every_device_one_wave_after_the_other(bench: Bench) -> None:
    ids = bench.online(6, boards=True)
    image = bench.publisher.publish("2.0.0")
    rollout = bench.rollout(ids, image, version="2.0.0", waves=(1, "33 %", "rest"))
    assert [wave.device_ids for wave in rollout.plan().waves] == [
        *(tuple(ids[:1]), tuple(ids[1:3]), tuple(ids[3:]))
    ]
    assert bench.tag(ids[0]) == {}  # a dry run

    report = rollout.run()

    assert (report.status, report.updated) == (Status.COMPLETED, tuple(ids))
    assert bench.versions(ids) == {"2.0.0"}
    twins = [reported(bench.hub.registry, device_id) for device_id in ids]
    began = [twin["firmwareUpdate"]["stages"]["waiting"]["startedAt"] for twin in twins]
    ended = [twin["lastFirmwareUpdate"] for twin in twins]
    assert max(ended[:1]) <= min(began[1:3])
    assert max(ended[1:3]) <= min(began[3:])
    assert bench.outcomes(ids) == ["completed"] * 6
    rows = read_fleet(bench.hub, rollout.condition, update_id=rollout.update_id)
    assert [(row.wave, row.state) for row in rows] == [
        (wave, "completed") for wave in (1, 2, 2, 3, 3, 3)
    ]
    assert [bench.tag(device_id)["wave"] for device_id in ids] == [1, 2, 2, 3, 3, 3]


def test_each_device_counts_as_what_it_is(bench: Bench) -> None:
    ids = bench.online(3, boards=True)
    new, failed_before, current = ids
    offline, gone = bench.ids(2)
    for device_id, behaviour in ((failed_before, "failsSelfTest"), (current, "works")):
        uri = bench.publisher.publish("2.0.0", behaviour=behaviour)
        update = invoke_firmware_update(bench.hub.registry, device_id, package_uri=uri)
        try:
            wait_for_update(bench.hub.registry, device_id, update.update_id, interval=0.05)
        except FirmwareUpdateError:
            assert device_id == failed_before

    def delete_one(report: RolloutReport) -> None:
        if report.wave == 1 and not report.waves[0].results:
            bench.hub.delete_device(gone)

    image = bench.publisher.publish("2.0.0")
    rollout = bench.rollout(
        [*ids, offline, gone], image, version="2.0.0", waves=["rest"], reach_seconds=2
    )
    report = rollout.run(on_change=delete_one)

    assert report.status is Status.COMPLETED
    assert report.ids(Outcome.COMPLETED) == (new, failed_before)
    assert report.ids(Outcome.UP_TO_DATE) == (current,)
    assert report.ids(Outcome.NOT_REACHED) == report.not_reached == (offline,)
    assert report.waves[0].results[offline].code == "offline"
    assert report.ids(Outcome.GONE) == (gone,)
    assert bench.versions(ids) == {"2.0.0"}
    assert bench.load().report().waves[0].counts == report.waves[0].counts


def test_a_device_that_comes_back_in_time_is_updated(bench: Bench) -> None:
    (late,) = bench.ids(1)
    threads: list[threading.Thread] = []

    def start(report: RolloutReport) -> None:
        if not threads and report.wave:
            threads.append(threading.Thread(target=bench.start, args=([late],)))
            threads[0].start()

    report = bench.rollout([late]).run(on_change=start)
    threads[0].join()
    assert report.updated == (late,)


def test_a_wave_that_reached_nobody_proves_nothing(bench: Bench) -> None:
    canary, *others = bench.ids(1) + bench.online(2)
    report = bench.rollout([canary, *others], reach_seconds=0.1).run()
    assert (report.status, report.not_reached) == (Status.STOPPED, (canary,))
    assert "no device was reached" in report.reason
    assert [bench.starts(device_id) for device_id in others] == [0, 0]


def test_after_failures_a_person_decides(bench: Bench) -> None:
    ids = bench.online(3)
    refused = "https://images.example.com/edge.fw"  # these devices have no board
    report = bench.rollout(ids, refused, waves=(1, "rest")).run()
    assert (report.status, report.causes) == (Status.STOPPED, {"noBoard": 1})
    with pytest.raises(RolloutOver, match="1 of 1 updates failed, more than 10 %"):
        bench.load().resume()
    report = bench.load().resume(past_failures=True)
    assert (report.status, report.wave, report.failed) == (Status.STOPPED, 2, tuple(ids))
    assert bench.load().resume(past_failures=True).status is Status.COMPLETED


def test_a_wave_that_cannot_be_saved_waits_for_nobody(bench: Bench) -> None:
    ids = [*bench.online(2), *bench.ids(1)]
    refused = "https://images.example.com/edge.fw"  # these devices have no board
    rollout = bench.rollout(
        ids, refused, waves=["rest"], reach_seconds=3600, wave_seconds=7200, abort_at=0.5
    )
    report = rollout.run()  # and not an hour later
    assert (report.status, report.failed) == (Status.STOPPED, tuple(ids[:2]))
    assert report.not_reached == (ids[2],)


def test_a_mended_image_takes_the_devices_of_the_rollout_that_was_stopped(bench: Bench) -> None:
    ids = bench.online(2)
    bench.rollout(ids, "https://images.example.com/edge.fw", waves=(1, "rest")).run()
    report = bench.rollout(ids, rollout_id=f"{bench.rollout_id}-1").run()
    assert report.updated == tuple(ids)
    assert bench.tag(ids[0])["id"] == f"{bench.rollout_id}-1"
    with pytest.raises(RolloutNotFound):
        bench.load()


def test_devices_are_found_by_a_condition(bench: Bench) -> None:
    first, second, _ = ids = bench.online(3)
    for device_id in (second, first):
        twin = bench.hub.registry.get_twin(device_id)
        twin.tags = {"site": bench.rollout_id}
        bench.hub.registry.update_twin(device_id, twin)
    report = bench.rollout(f"tags.site = '{bench.rollout_id}'", waves=(1, 1)).run()
    assert [wave.device_ids for wave in report.waves] == [(first,), (second,)]
    assert [bench.starts(device_id) for device_id in ids] == [1, 1, 0]


@pytest.mark.parametrize(
    ("devices", "error", "words"),
    [
        ([], FirmwareUpdateError, "nothing to roll out"),
        ("tags.site = 'nowhere'", FirmwareUpdateError, "nothing to roll out"),
        (["no-such-device"], FirmwareUpdateError, "no device 'no-such-device'"),
        ("tags.site is A", QueryRefused, "does not understand"),
    ],
)
def test_a_rollout_for_nobody_is_refused(
    bench: Bench, devices: Any, error: type[Exception], words: str
) -> None:
    rollout = bench.rollout(devices)
    for call in (rollout.plan, rollout.run, rollout.report):
        with pytest.raises(error, match=words):
            call()


def test_an_id_and_a_device_belong_to_one_rollout_at_a_time(bench: Bench) -> None:
    ids = bench.online(2)
    other = f"{bench.rollout_id}-1"

    def stop(report: RolloutReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.rollout(ids).run(on_change=stop)
    with pytest.raises(RolloutExists, match="goes on with it"):
        bench.rollout(ids).run()
    with pytest.raises(RolloutConflict, match="takes part in the rollout"):
        bench.rollout(ids, rollout_id=other).run()
    bench.load().cancel()
    with pytest.raises(RolloutOver, match="cancelled"):
        bench.load().resume()
    bench.load().forget()
    assert bench.tag(ids[0]) == bench.tag(ids[1]) == {}
    assert bench.rollout(ids).run().updated == tuple(ids)


def test_the_address_of_the_image_is_shown_nowhere(bench: Bench) -> None:
    ids = bench.online(2)
    secret = "https://images.example.com/AbCdEf0123456789/edge.fw?sig=topsecret"
    rollout = bench.rollout(ids, secret, waves=(1, "rest"))
    shown = [rollout.plan(), rollout.run(), bench.load(), bench.load().report(), rollout]
    texts = [bench.twins(ids), str(rollout.events)]
    texts += [text for each in shown for text in (str(each), repr(each))]
    texts += [each._repr_html_() for each in (rollout.plan(), rollout.report())]
    for part in ("topsecret", "AbCdEf0123456789", "images.example.com"):
        assert not [text for text in texts if part in text]
    assert SIMULATED not in bench.twins(ids)
