"""A fleet's rows: what the twins of many devices tell, on one clock."""

from __future__ import annotations

import doctest
from datetime import timedelta
from typing import Any

import pytest
from azure.iot.hub.models import Twin, TwinProperties

from fwupdate_helpers import contract, fleet_view, queries
from fwupdate_helpers.fleet_view import (
    FleetRow,
    by_wave,
    count_states,
    fleet_rows,
    tell_states,
)
from tests.fleets import BEGIN, UPDATE_ID, FleetPlan, Reporter, fleet, fleet_twins, twin

STAGES = {contract.WAITING: 1.0, contract.DOWNLOADING: 4.0, contract.APPLYING: 2.0}


def row_of(reporter: Reporter, **options: Any) -> FleetRow:
    return FleetRow.from_twin(twin("device-1", reporter.reported), **options)


def starts(row: FleetRow) -> list[float]:
    return [(span.start - BEGIN).total_seconds() for span in row.spans]


def test_a_row_tells_update_outcome_version_wave_and_connection() -> None:
    reporter = Reporter()
    reporter.update(0, STAGES)
    row = FleetRow.from_twin(twin("device-1", reporter.reported, wave=2, connected=False))
    assert (row.device_id, row.wave, row.connected, row.version) == ("device-1", 2, False, "2.0.0")
    assert (row.outcome, row.state, row.error_code) == ("completed", "completed", None)
    assert row.has_ended and not row.is_running and not row.has_failed
    assert row.timeline is not None and row.timeline.seconds == pytest.approx(7)


def test_an_sdk_twin_and_its_json_make_the_same_row() -> None:
    reporter = Reporter()
    reporter.update(0, STAGES, failure=contract.CODE_DOWNLOAD_FAILED)
    sdk_twin = Twin(
        device_id="device-1",
        tags={"rollout": {"wave": 3}},
        connection_state="Connected",
        properties=TwinProperties(reported=reporter.reported),
    )
    row = FleetRow.from_twin(sdk_twin)
    assert row == FleetRow.from_twin(twin("device-1", reporter.reported, wave=3))
    assert (row.state, row.error_code) == ("failed", "downloadFailed")


def test_a_running_update_is_in_its_last_stage() -> None:
    reporter = Reporter()
    reporter.update(0, STAGES, until=3)
    row = row_of(reporter)
    assert (row.state, row.is_running, row.outcome) == ("downloading", True, None)
    assert [span.end is None for span in row.spans] == [False, True]


@pytest.mark.parametrize("reported", [{}, {"firmwareStatus": "standBy"}, {"firmwareUpdate": 7}])
def test_a_device_without_an_update_has_not_begun(reported: Any) -> None:
    row = FleetRow.from_twin(twin("device-1", reported))
    assert (row.state, row.timeline, row.spans, row.update_id) == ("not begun", None, (), None)


def test_an_update_of_another_id_or_of_before_does_not_count() -> None:
    reporter = Reporter(skew=5000)
    reporter.update(0, STAGES, update_id="fw-1-9-0")
    assert row_of(reporter).belongs_to("fw-1-9-0")
    other = row_of(reporter, update_id=UPDATE_ID)
    assert (other.state, other.outcome, other.version) == ("not begun", None, "2.0.0")
    assert row_of(reporter, since=BEGIN + timedelta(seconds=1)).state == "not begun"
    assert row_of(reporter, since=BEGIN - timedelta(seconds=1)).state == "completed"


@pytest.mark.parametrize(
    ("outcome", "state", "code"),
    [
        ("upToDate", "up to date", None),
        ("notReached", "not reached", None),
        ("failed", "failed", "wrongHardware"),
        ("late", "not begun", None),
    ],
)
def test_a_rollouts_tag_tells_of_devices_that_began_nothing(
    outcome: str, state: str, code: str | None
) -> None:
    one = twin("device-1", {}, wave=1)
    one["tags"]["rollout"] |= {"outcome": outcome, "code": "wrongHardware"}
    row = FleetRow.from_twin(one)
    assert (row.state, row.error_code, row.has_failed) == (state, code, state == "failed")


def test_what_the_device_reports_outweighs_the_tag() -> None:
    reporter = Reporter()
    reporter.update(0, STAGES)
    one = twin("device-1", reporter.reported, wave=1)
    one["tags"]["rollout"] |= {"outcome": "failed", "code": "late"}
    assert (FleetRow.from_twin(one).state, FleetRow.from_twin(one).error_code) == (
        "completed",
        None,
    )


@pytest.mark.parametrize("skew", [0, 7200, -86_400 * 365])
def test_a_wrong_clock_of_a_device_does_not_move_its_stages(skew: float) -> None:
    reporter = Reporter(skew=skew, way=0.05)
    reporter.update(10, STAGES)
    assert starts(row_of(reporter)) == pytest.approx([10.05, 11.05, 15.05], abs=0.002)


def test_reports_that_waited_for_a_connection_do_not_move_the_stages() -> None:
    reporter = Reporter(skew=-3600)
    reporter.report(0, contract.opening_patch("u", reporter.at(0)), way=40)
    patch = contract.stage_patch(reporter.at(1), contract.WAITING, contract.DOWNLOADING)
    reporter.report(1, patch, way=39)
    reporter.report(60, contract.completed_patch(reporter.at(60), contract.DOWNLOADING), way=0.1)
    assert starts(row_of(reporter)) == pytest.approx([0.1, 1.1], abs=0.002)


def test_a_clock_that_was_set_back_ends_no_stage_before_its_start() -> None:
    reporter = Reporter()
    reporter.report(0, contract.opening_patch("u", reporter.at(100)))
    patch = contract.stage_patch(reporter.at(1), contract.WAITING, contract.DOWNLOADING)
    reporter.report(1, patch)
    assert all(span.end is None or span.end >= span.start for span in row_of(reporter).spans)


def test_a_device_side_twin_keeps_the_devices_own_times() -> None:
    reporter = Reporter(skew=500)
    reporter.update(0, STAGES)
    reported = {k: v for k, v in reporter.reported.items() if not k.startswith("$")}
    row = FleetRow.from_twin({"reported": reported, "desired": {}})
    assert row.spans == () or starts(row)[0] == 500


def test_rows_are_in_the_order_of_wave_and_id_and_those_without_a_wave_are_last() -> None:
    twins = [twin("c", {}), twin("b", {}, wave=2), twin("d", {}, wave=1), twin("a", {}, wave=2)]
    rows = fleet_rows(twins)
    assert [row.device_id for row in rows] == ["d", "a", "b", "c"]
    groups = by_wave(reversed(rows))
    assert {wave: len(each) for wave, each in groups.items()} == {1: 1, 2: 2, None: 1}
    assert list(groups) == [1, 2, None]


@pytest.mark.parametrize("wave", ["2", True, 1.5, None, {}])
def test_a_tag_that_is_no_wave_is_none(wave: Any) -> None:
    one = twin("device-1", {}) | {"tags": {"rollout": {"wave": wave}}}
    assert FleetRow.from_twin(one).wave is None


def test_every_device_is_counted_once() -> None:
    rows = fleet(300, failing=0.2, idle=0.1, until=60)
    counts = count_states(rows)
    assert sum(counts.values()) == 300
    assert counts["not begun"] > 20 and counts["failed"] > 5 and counts["rolled back"] > 5
    told = tell_states(rows)
    assert f"{counts['completed']} completed, {counts['failed']} failed" in told
    assert tell_states([]) == ""


def test_a_fleet_of_the_tests_is_what_its_plan_says() -> None:
    twins = fleet_twins(FleetPlan(100, idle=0, failing=0))
    assert len({one["deviceId"] for one in twins}) == 100
    assert {one["tags"]["rollout"]["wave"] for one in twins} == {1, 2, 3, 4}
    assert tell_states(fleet_rows(twins)) == "100 completed"


@pytest.mark.parametrize("module", [fleet_view, queries])
def test_the_examples_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
