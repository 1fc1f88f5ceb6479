"""A fleet on a real hub: one query for its rows, and the board that shows them live."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ipywidgets
import pytest
from ipywidgets.widgets import widget as ipywidgets_registry

from fwupdate_helpers import FleetBoard, read_fleet
from fwupdate_helpers.errors import HubUnavailable, QueryRefused
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.hub_pace import METERED_PACE
from fwupdate_helpers.queries import twin_pages, twins_query
from fwupdate_helpers.retries import RetryPolicy
from fwupdate_helpers.widgets.fleet_board import BoardTimeout
from fwupdate_helpers.widgets.fleet_reader import FleetReader
from tests import rest
from tests.fleets import RawFleet
from tests.images import hub_of
from tests.raw_mqtt import OpenDevice
from tests.support import HubProcess

wait_for = partial(rest.wait_for, seconds=60)
NewBoard = Callable[..., FleetBoard]


@pytest.fixture
def hub(hub_process: HubProcess) -> Iterator[Hub]:
    with hub_of(hub_process) as hub:
        yield hub


@pytest.fixture
def devices(hub_process: HubProcess, open_device: OpenDevice, device_id: str) -> RawFleet:
    """Return six devices: one of wave 1, the others of wave 2."""
    return RawFleet(hub_process, open_device, device_id, 6, waves=lambda at: 1 if at == 0 else 2)


@pytest.fixture
def board_of(hub: Hub) -> Iterator[NewBoard]:
    made: list[FleetBoard] = []

    def make_one(condition: str, **options: Any) -> FleetBoard:
        made.append(FleetBoard(hub, condition, **{"interval": 0.05, **options}))
        return made[-1]

    yield make_one
    for board in made:
        board.close()


def board_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("fleet-board")]


def shown(widget: Any) -> str:
    """Everything that stands in the board."""
    if isinstance(widget, ipywidgets.HTML):
        return str(widget.value)
    return "\n".join(shown(child) for child in getattr(widget, "children", ()))


# --- the query ---


def test_a_fleet_is_read_page_by_page_each_device_once(hub: Hub, device_id: str) -> None:
    names = [f"{device_id}-{number}" for number in range(7)]
    for name in names:
        hub.registry.create_device_with_sas(name, None, None, "enabled")
        hub.registry.update_twin(name, {"tags": {"fleet": device_id}})
    condition = f"tags.fleet = '{device_id}'"
    pages = list(twin_pages(hub.registry, twins_query(condition), page_size=3))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert sorted(twin.device_id for page in pages for twin in page) == names
    assert [row.device_id for row in read_fleet(hub, condition)] == names
    assert read_fleet(hub, "tags.fleet = 'nobody'") == []
    assert {row.device_id for row in read_fleet(hub)} >= set(names), "all devices"


def test_rows_tell_what_devices_reported_and_what_the_hub_knows(
    hub: Hub, devices: RawFleet
) -> None:
    devices.begin(0)
    devices.end(0)
    devices.begin(1, "of-another-kernel")
    devices.end(1, "hashMismatch")
    devices.begin(2)
    rows = read_fleet(hub, devices.condition)
    assert [row.state for row in rows] == ["completed", "failed", "downloading", *["not begun"] * 3]
    assert [row.wave for row in rows] == [1, 2, 2, 2, 2, 2]
    assert rows[1].error_code == "hashMismatch" and all(row.connected for row in rows)
    mine = read_fleet(hub, devices.condition, update_id="fw-2-0-0")
    assert [row.state for row in mine[:3]] == ["completed", "not begun", "downloading"]


def test_a_condition_that_is_none_is_refused_with_the_place_of_the_mistake(hub: Hub) -> None:
    with pytest.raises(QueryRefused, match="line 1, column 41") as refused:
        read_fleet(hub, "tags.fleet == 'x'")
    assert (refused.value.status, refused.value.code) == (400, 400004)
    assert refused.value.query == "SELECT * FROM devices WHERE tags.fleet == 'x'"


def test_a_hub_that_is_away_is_told_after_the_tries_that_were_granted(
    own_hub_process: HubProcess,
) -> None:
    hub = hub_of(own_hub_process)
    assert read_fleet(hub) == []
    own_hub_process.kill()
    with pytest.raises(HubUnavailable) as away:
        read_fleet(hub, policy=RetryPolicy(attempts=2, base_seconds=0.01))
    assert away.value.attempts == 2


def test_the_pages_of_a_fleet_decide_how_often_azure_is_asked(hub: Hub, devices: RawFleet) -> None:
    devices.begin(0)
    now = 100.0
    reader = FleetReader(
        hub.registry,
        devices.condition,
        interval=1.0,
        pace=METERED_PACE,
        clock=lambda: now,
    )
    assert reader.is_due(now)
    reader.read()
    assert reader.rows is not None and len(reader.rows) == 6
    assert reader.seconds == 6, "one page, and ten a minute"
    assert not reader.is_due(now + 5) and reader.is_due(now + 6)
    devices.end(0)
    reader.read()
    assert not reader.is_due(now + 6) and reader.is_due(now + 24), "nothing runs"
    now += 901
    reader.read()
    assert not reader.is_due(now + 599) and reader.is_due(now + 600), "and nobody looks"


# --- the board ---


def test_the_board_shows_a_rollout_from_its_begin_to_its_end(
    devices: RawFleet, board_of: NewBoard
) -> None:
    board = board_of(devices.condition)
    assert board.wait_for("no update yet").counts["not begun"] == 6
    for number in range(4):
        devices.begin(number)
    assert board.wait_for(lambda view: view.counts["downloading"] == 4).state == "updates run"
    wait_for(lambda: 'alt="0 of 6 devices have ended. One thin bar' in shown(board.widget))
    for number in range(4):
        devices.end(number, "hashMismatch" if number == 3 else None)
    paused = board.wait_for("no update runs")
    assert (paused.percent, paused.counts["failed"]) == (66, 1)
    assert "2 devices have not begun" in paused.message.text
    for number in (4, 5):
        devices.begin(number)
        devices.end(number)
    end = board.wait_for("all updates ended")
    assert end.text == "all updates ended · 100 % · 0 s left · 1 failed"
    wait_for(lambda: "wave 2 · 5 devices: 4 completed, 1 failed" in shown(board.widget))
    assert 'aria-valuenow="100"' in shown(board.widget)
    assert board.error is None


def test_a_device_that_is_chosen_is_shown_with_its_timeline_and_its_last_error(
    devices: RawFleet, board_of: NewBoard
) -> None:
    board = board_of(devices.condition)
    for number in (0, 1):
        devices.begin(number)
    devices.end(1, "hashMismatch")
    board.wait_for(lambda view: view.counts["failed"] == 1)
    chooser = board._widgets.chooser
    wait_for(lambda: bool(chooser.options) and chooser.options[0][1] == devices.device_ids[1])
    assert chooser.options[0][0] == f"✖ {devices.device_ids[1]} · hashMismatch"
    chooser.value = devices.device_ids[1]  # what the front end does when a person clicks
    wait_for(lambda: "hashMismatch: The test wants it." in shown(board.widget))
    title = f"Update failed while downloading (hashMismatch): {devices.device_ids[1]}"
    wait_for(lambda: f'alt="{title}' in shown(board.widget))

    board.choose(devices.device_ids[0])
    wait_for(lambda: f"<b>{devices.device_ids[0]}</b>" in shown(board.widget))
    wait_for(lambda: bool(chooser.value == devices.device_ids[0]))
    devices.end(0)
    wait_for(lambda: 'alt="Update completed in' in shown(board.widget))
    board.wait_for(lambda view: view.counts["completed"] == 1)

    board._widgets.search.value = "0005"
    wait_for(lambda: [device for _, device in chooser.options] == [devices.device_ids[5]])


def test_nothing_is_sent_while_nothing_changes(devices: RawFleet, board_of: NewBoard) -> None:
    devices.begin(0)
    board = board_of(devices.condition)
    board.choose(devices.device_ids[0])
    wait_for(lambda: 'alt="Update unfinished' in shown(board.widget))
    wait_for(lambda: "One thin bar" in shown(board.widget))
    changes: list[Any] = []
    for part in [
        *board.widget.children,
        *board._widgets._boxes[1].children,
        board._widgets.chooser,
    ]:
        part.observe(changes.append)
    turns = iter(range(10))
    board.wait_for(lambda view: next(turns, None) is None)
    assert changes == [], changes


def test_a_second_board_of_a_condition_closes_the_first_and_leaves_no_thread(
    devices: RawFleet, board_of: NewBoard
) -> None:
    first = board_of(devices.condition)
    first.wait_for("no update yet")
    before = len(ipywidgets_registry._instances)
    second = board_of(devices.condition)
    assert board_threads().count("fleet-board") == 1
    assert len(ipywidgets_registry._instances) == before, "nothing of the first is left"
    second.wait_for("no update yet")
    with pytest.raises(BoardTimeout, match="Run the board's cell again"):
        first.wait_for("all updates ended")
    second.close()
    second.close()
    assert board_threads() == []


def test_a_bad_condition_a_hub_that_goes_and_returns_and_a_closed_one_are_told(
    own_hub_process: HubProcess,
) -> None:
    hub = hub_of(own_hub_process)
    bad = FleetBoard(hub, "tags.fleet == 'x'", interval=0.05)
    assert "line 1, column 41" in bad.wait_for("hub refuses").message.text
    board = FleetBoard(hub, interval=0.05)
    board.wait_for("no device fits")
    own_hub_process.kill()
    assert "Check that it runs" in board.wait_for("hub away").message.text
    own_hub_process.start()
    board.wait_for("no device fits")
    hub.close()
    assert board.view.state == "hub closed" and "Run the set-up cell" in shown(board.widget)
    assert board_threads() == []
    board.close()
    bad.close()


def test_a_board_waits_as_long_as_the_hub_asks_and_closes_at_once(
    own_hub_process: HubProcess,
) -> None:
    with hub_of(own_hub_process) as hub:
        hub.faults.refuse_service_calls(429, retry_after=600)
        board = FleetBoard(hub, interval=0.05)
        refused = board.wait_for("hub refuses")
        assert "It asks to wait 600 s." in refused.message.text
        turns = iter(range(5))
        assert board.wait_for(lambda view: next(turns, None) is None).state == "hub refuses"
        board.close()
        assert board_threads() == []


def test_an_error_in_a_picture_is_shown_and_the_board_goes_on(
    devices: RawFleet, board_of: NewBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> tuple[bytes, str]:
        raise RuntimeError("no font")

    monkeypatch.setattr("fwupdate_helpers.widgets.fleet_picture.fleet_png", fail)
    board = board_of(devices.condition)
    assert board.wait_for(lambda view: "RuntimeError" in view.message.text).message.is_error
    devices.begin(0)
    board.wait_for("updates run")


def test_no_interval_is_refused_in_its_cell(hub: Hub) -> None:
    with pytest.raises(ValueError, match="more than zero"):
        FleetBoard(hub, interval=0)
    assert board_threads() == []
