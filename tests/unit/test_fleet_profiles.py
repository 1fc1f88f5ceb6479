"""Who the devices of a fleet are, and what its parts say to each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest

from fwupdate_helpers.fleet.bar import line_of
from fwupdate_helpers.fleet.lines import Member, Task
from fwupdate_helpers.fleet.profiles import DeviceProfile, Mix
from fwupdate_helpers.fleet.states import FleetStates

MIX: dict[str, Any] = {
    "models": {"small": 3, "large": 1},
    "versions": ("1.0.0", "1.1.0"),
    "sites": ("oslo",),
    "speeds": (None, 1000),
}
FAULTS = {"self_test_failures": 0.1, "hangs": 0.2, "power_losses": 0.3}


def draw(size: int, seed: int = 7, **options: Any) -> list[DeviceProfile]:
    mix = Mix(**{**MIX, **options})
    return [mix.draw(index, f"device-{index}", seed) for index in range(size)]


def test_a_seed_draws_the_same_devices_in_every_run_and_on_every_machine() -> None:
    drawn = [(one.model, one.version, one.bytes_per_second) for one in draw(4)]
    assert drawn == [
        ("small", "1.0.0", None),
        ("large", "1.0.0", 1000),
        ("large", "1.0.0", 1000),
        ("small", "1.0.0", None),
    ]
    assert draw(50) == draw(50) != draw(50, seed=8)


def test_a_larger_fleet_begins_with_the_devices_of_a_smaller_one() -> None:
    assert draw(100)[:10] == draw(10)


def test_faults_change_nothing_else_of_a_device() -> None:
    for healthy, other in zip(draw(200), draw(200, **FAULTS), strict=True):
        assert asdict(other) == {
            **asdict(healthy),
            "fails_self_test": other.fails_self_test,
            "hangs": other.hangs,
            "loses_power_at": other.loses_power_at,
        }


def test_the_shares_are_those_that_were_asked_for_and_no_device_has_two_faults() -> None:
    fleet = draw(4000, **FAULTS)
    found = Counter(
        (one.fails_self_test, one.hangs, one.loses_power_at is not None) for one in fleet
    )
    assert set(found) == {
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),
    }
    assert found[True, False, False] / 4000 == pytest.approx(0.1, abs=0.02)
    assert found[False, True, False] / 4000 == pytest.approx(0.2, abs=0.02)
    assert found[False, False, True] / 4000 == pytest.approx(0.3, abs=0.02)
    small = sum(one.model == "small" for one in fleet)
    assert small / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"models": "demo-board"}, "models must be a list"),
        ({"versions": ()}, "versions must be a list"),
        ({"speeds": {None: 0}}, "shares of speeds"),
        ({"sites": {"oslo": 2, "rome": -1}}, "shares of sites"),
        ({"hangs": 1.5}, "together 1 at most"),
        ({"hangs": 0.6, "power_losses": 0.5}, "together 1 at most"),
        ({"self_test_failures": -0.1}, "together 1 at most"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Mix(**{**MIX, **wrong})


def test_a_task_arrives_as_it_was_sent_and_shows_no_key() -> None:
    member = Member(3, "device-3", "c2VjcmV0", "small", "1.0.0", None, True, False, "applying")
    task = Task(
        host="127.0.0.1",
        device_options={"server_verification_cert": "pem"},
        stage_seconds=0.5,
        outage_seconds=1.0,
        watchdog_seconds=2.0,
        publisher_key=bytes(range(32)),
        images={"1.0.0": b"\x00\xff"},
        lock="fleet.lock",
        members=(member,),
    )
    assert "\n" not in task.to_line()
    assert Task.from_line(task.to_line()) == task
    assert "c2VjcmV0" not in repr(task) + repr(member)


def test_a_wait_for_devices_ends_when_all_are_there_and_when_nothing_is_heard() -> None:
    states, seen = FleetStates(3), []
    states.put(0, "online")
    assert not states.wait([0, 1], ["online"], silence=0, on_tick=seen.append)
    states.put(1, "failed", "no hub")
    assert states.wait([0, 1], ["online", "failed"], silence=0, on_tick=seen.append)
    assert seen == [1, 2]
    assert states.reasons() == {1: "no hub"}
    states.put(1, "online")
    assert (states.reasons(), states.all()) == ({}, ["online", "online", "off"])


@pytest.mark.parametrize(
    ("done", "seconds", "line"),
    [
        (0, 1.0, "Connecting: 0 of 400 (0 %)"),
        (100, 2.0, "Connecting: 100 of 400 (25 %), about 6 s left"),
        (400, 8.04, "Connecting: 400 of 400 (100 %) in 8.0 s"),
    ],
)
def test_the_line_beside_the_bar_tells_how_many_and_how_long(
    done: int, seconds: float, line: str
) -> None:
    assert line_of("Connecting", done=done, total=400, seconds=seconds) == line
