"""What a fleet board shows: rows and times go in, words come out."""

from __future__ import annotations

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.errors import HubThrottled, HubUnavailable, QueryRefused
from fwupdate_helpers.fleet_view import FleetRow, fleet_rows
from fwupdate_helpers.widgets.board_view import (
    ENDED,
    MOST_OPTIONS,
    NO_DEVICE,
    NO_UPDATE,
    READING,
    RUNNING,
    STILL,
    BoardLook,
    BoardReader,
    BoardView,
    EndMeter,
    device_options,
)
from fwupdate_helpers.widgets.view import HUB_AWAY, HUB_CLOSED, HUB_REFUSES
from tests.fleets import Reporter, fleet, twin

STAGES = {contract.WAITING: 1.0, contract.DOWNLOADING: 4.0, contract.APPLYING: 2.0}


def rows(*until: float, failure: str | None = None) -> tuple[FleetRow, ...]:
    """Devices whose updates are seen so many seconds after they began; 0 has not begun."""
    twins = []
    for number, seconds in enumerate(until):
        reporter = Reporter()
        if seconds:
            reporter.update(0, STAGES, until=seconds, failure=failure)
        twins.append(twin(f"device-{number}", reporter.reported))
    return tuple(fleet_rows(twins))


def view(**look: object) -> BoardView:
    return BoardReader().view(BoardLook(now=0, **look))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "state", "text"),
    [
        (None, READING, "reading the fleet · 0 % · time left not known yet"),
        ((), NO_DEVICE, "no device fits · 0 % · time left not known yet"),
        (rows(0, 0), NO_UPDATE, "no update yet · 0 % · time left not known yet · 0 failed"),
        (rows(99, 3, 0), RUNNING, "updates run · 33 % · time left not known yet · 0 failed"),
        (rows(99, 0), STILL, "no update runs · 50 % · time left not known yet · 0 failed"),
        (rows(99, 99), ENDED, "all updates ended · 100 % · 0 s left · 0 failed"),
        (
            rows(99, failure=contract.CODE_DOWNLOAD_FAILED),
            ENDED,
            "all updates ended · 100 % · 0 s left · 1 failed",
        ),
    ],
)
def test_the_line_tells_state_percent_time_left_and_failures(
    found: tuple[FleetRow, ...] | None, state: str, text: str
) -> None:
    seen = view(rows=found)
    assert (seen.state, seen.text) == (state, text)


@pytest.mark.parametrize(
    ("problem", "state", "words"),
    [
        (HubUnavailable("The hub is away."), HUB_AWAY, "The hub is away."),
        (QueryRefused("It is no query.", query="x", code=400004), HUB_REFUSES, "no query"),
        (HubThrottled("Too many.", status=429), HUB_REFUSES, "Too many."),
        (ValueError("SharedAccessKey=c2VjcmV0"), HUB_REFUSES, "ValueError"),
    ],
)
def test_a_problem_is_told_and_what_was_read_stays(
    problem: Exception, state: str, words: str
) -> None:
    seen = view(rows=rows(99, 0), problem=problem)
    assert seen.state == state and seen.message.is_error and words in seen.message.text
    assert seen.percent == 50 and len(seen.rows) == 2
    assert "c2VjcmV0" not in seen.message.text


def test_a_closed_hub_and_a_slow_one_are_told() -> None:
    closed = view(rows=rows(99), closed=True)
    assert closed.state == HUB_CLOSED and "Run the set-up cell" in closed.message.text
    assert "every 1 min only" in view(rows=rows(99), seconds=60).message.text


def test_the_time_left_follows_how_many_devices_end() -> None:
    meter = EndMeter()
    told = [meter.tell(now, ended, 100, runs=True) for now, ended in ((0, 0), (10, 0), (20, 20))]
    assert told == ["time left not known yet"] * 2 + ["about 1 min 20 s left"]
    assert meter.tell(30, 60, 100, runs=True) == "about 20 s left"
    assert meter.tell(31, 100, 100, runs=True) == "0 s left"


def test_the_time_left_is_not_known_in_a_pause_and_forgets_the_wave_before() -> None:
    meter = EndMeter()
    meter.tell(0, 0, 100, runs=True)
    assert meter.tell(1, 50, 100, runs=True) == "about 1 s left"
    assert meter.tell(500, 50, 100, runs=False) == "time left not known yet"
    assert meter.tell(1000, 50, 100, runs=True) == "time left not known yet"


def test_the_list_begins_with_failures_and_finds_a_device_by_a_part_of_its_id() -> None:
    found = fleet(1000, failing=0.05, until=60)
    options = device_options(found)
    failed = [row for row in found if row.has_failed]
    assert len(options) == MOST_OPTIONS
    assert {device for _, device in options[: len(failed)]} == {row.device_id for row in failed}
    assert all(label.startswith(("✖ ", "◀ ")) for label, _ in options[: len(failed)])
    assert [device for _, device in device_options(found, " FLEET-0999 ")] == ["jovyan-fleet-0999"]
    assert device_options(found, "nobody") == []
