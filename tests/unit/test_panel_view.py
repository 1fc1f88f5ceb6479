"""What an update panel shows: twins, events and times go in, words come out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.errors import DeviceNotFound, HubUnavailable, UpdateRejected
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.merge import merge
from fwupdate_helpers.widgets.picture import Picture
from fwupdate_helpers.widgets.view import (
    BUTTONS,
    CANCEL,
    LOG_LINES,
    POWER_CUT,
    RESTART,
    START,
    Look,
    Note,
    PanelReader,
    PanelView,
    error_words,
    log_lines,
)

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
BEGAN = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)
UPDATE_ID = "3f2a" + 28 * "0"
LINE = re.compile(r"[^·]+ · (\d+) % · ([^·]+)( · update \w+)?( · resumed)?")


class Device:
    """Walks updates on paper, with the patches of the real device; time is a number of seconds."""

    def __init__(self, *, image: bool = True) -> None:
        self.now = 0.0
        self.power, self.closed, self.busy = True, False, False
        self.note: Note | None = None
        self.problem: Exception | None = None
        self.events = EventLog()
        self.reader = PanelReader()
        self.image = image
        self.reported: Json = contract.stand_by_patch(self.time)
        if image:
            self.reported |= contract.firmware_patch("1.0.0", None, "a", {"a": "1.0.0"})
        self.heard: datetime | None = None

    @property
    def time(self) -> datetime:
        return BEGAN + timedelta(seconds=self.now)

    def report(self, patch: Json) -> None:
        self.reported = merge(self.reported, patch)
        self.heard = self.time

    def begin(self, update_id: str = UPDATE_ID) -> None:
        self.report(contract.opening_patch(update_id, self.time))

    def enter(self, stage: str) -> None:
        ended = contract.open_stage(self.reported)
        assert ended is not None
        self.report(contract.stage_patch(self.time, ended, stage))

    def receive(self, share: float) -> None:
        received = (round(1000 * share), 1000) if self.image else ()
        self.report(contract.progress_patch(share, *received))

    def complete(self) -> None:
        last = contract.open_stage(self.reported)
        assert last is not None
        self.report(contract.completed_patch(self.time, last))

    def fail(self, code: str, status: str = contract.ERROR) -> None:
        last = contract.open_stage(self.reported)
        assert last is not None
        self.report(contract.error_patch(self.time, last, code, "It is broken.", status))

    def walk(self, *, seconds: float = 2.0) -> list[PanelView]:
        """Walk a whole update, `seconds` for each stage; return a view of each step."""
        views = []
        self.begin()
        for stage in contract.STAGES if self.image else ("waiting", "downloading", "applying"):
            if stage != contract.WAITING:
                self.enter(stage)
            for step in range(4):
                if stage == contract.DOWNLOADING:
                    self.receive(step / 4)
                views.append(self.view())
                self.now += seconds / 4
        self.complete()
        return [*views, self.view()]

    def view(self, after: float = 0.0) -> PanelView:
        self.now += after
        reported = self.reported | {"$metadata": _metadata(self.reported, self.heard)}
        look = Look(
            now=1000.0 + self.now,
            twin={"deviceId": "d", "properties": {"reported": reported}},
            problem=self.problem,
            running=self.power,
            events=tuple(self.events),
            note=self.note,
            busy=self.busy,
            closed=self.closed,
        )
        return self.reader.view(look)


def _metadata(reported: Json, heard: datetime | None) -> Json:
    """The hub's `$metadata`: each value at its own time, and the update when it was last heard."""
    found: Json = {}
    for key, value in reported.items():
        times = [value] if key in (contract.STARTED_AT, contract.ENDED_AT) else []
        nested = _metadata(value, heard) if isinstance(value, dict) else {}
        found[key] = {"$lastUpdated": contract.to_wire(heard) if heard else None, **nested}
        if times:
            found[key]["$lastUpdated"] = times[0]
    return found


@pytest.fixture
def device() -> Device:
    return Device()


def test_the_line_tells_state_percent_and_time_left_before_during_and_after_an_update() -> None:
    for image in (True, False):
        device = Device(image=image)
        lines = [device.view().text, *(view.text for view in device.walk())]
        assert lines[0] == "no update yet · 0 % · time left not known yet"
        assert lines[-1] == "completed in " + lines[-1].split(" in ")[1]
        percents = []
        for line in lines:
            match = LINE.fullmatch(line)
            assert match, line
            percents.append(int(match[1]))
            assert re.search(r"left|known", match[2]), line
        assert percents == sorted(percents)
        assert percents[-1] == 100 and set(percents[:-1]).isdisjoint({100})
        states = list(dict.fromkeys(line.split(" ")[0] for line in lines[1:]))
        stages = contract.STAGES if image else ("waiting", "downloading", "applying")
        assert states == [*stages, "completed"]


def test_the_end_tells_how_long_the_update_took(device: Device) -> None:
    assert device.walk()[-1].text == "completed in 10.0 s · 100 % · 0 s left · update 3f2a"


def test_the_time_left_of_a_first_download_comes_from_its_bytes_and_speed(device: Device) -> None:
    device.begin()
    device.enter(contract.DOWNLOADING)
    assert device.view().time_left == "time left not known yet"
    device.now += 2
    device.receive(0.25)
    assert device.view().text == ("downloading · 22 % · about 6 s left to download · update 3f2a")
    assert device.view(after=1).time_left == "about 5 s left to download"
    device.receive(1.0)
    assert device.view().time_left == "less than 1 s left to download"


def test_a_download_that_stands_still_has_more_and_more_time_left(device: Device) -> None:
    device.begin()
    device.enter(contract.DOWNLOADING)
    device.view()
    device.now += 2
    device.receive(0.5)
    device.view()
    assert device.view(after=10).time_left == "about 12 s left to download"
    assert device.view(after=10).time_left == "about 22 s left to download"


def test_after_one_update_the_time_left_is_that_of_all_stages(device: Device) -> None:
    device.walk(seconds=4.0)
    views = device.walk(seconds=4.0)
    assert [view.time_left for view in views[:5]] == [
        *("about 20 s left", "about 19 s left", "about 18 s left", "about 17 s left"),
        "about 16 s left",
    ]
    assert views[-2].time_left == "about 1 s left"
    assert [view.percent for view in views[:3]] == [0, 2, 5]


def test_a_panel_that_opens_later_knows_the_update_before_from_the_twin(device: Device) -> None:
    device.walk(seconds=4.0)
    device.reader = PanelReader()
    device.view()
    device.begin("another")
    assert device.view().time_left == "about 20 s left"


def test_the_time_left_is_never_negative_and_says_when_a_stage_is_late(device: Device) -> None:
    device.walk(seconds=2.0)
    device.begin()
    seen = [device.view(after=0.5).time_left for _ in range(14)]
    assert not any("-" in words or "−" in words for words in seen)
    assert seen[3:9] == ["about 8 s left"] * 6
    assert seen[-1] == "longer than last time"


def test_time_without_power_counts_neither_for_the_speed_nor_for_the_next_update(
    device: Device,
) -> None:
    device.begin()
    device.enter(contract.DOWNLOADING)
    device.view()
    device.now += 2
    device.receive(0.5)
    device.view()
    device.events.add("power-cut", "The power was cut.")
    device.power = False
    view = device.view(after=3600)
    assert (view.state, view.percent) == ("no power", 35)
    assert view.text == "device has no power · 35 % · time left not known yet · update 3f2a"
    device.power = True
    device.report(contract.recovery_patch(device.time, contract.RESUMED))
    assert device.view().time_left == "time left not known yet"
    device.now += 1
    device.receive(0.6)
    view = device.view()
    assert view.text.endswith("about 4 s left to download · update 3f2a · resumed")
    assert "resumed" in view.message.text
    for stage in (contract.VERIFYING, contract.APPLYING, contract.REBOOTING):
        device.enter(stage)
    device.complete()
    device.view()
    device.begin("another")
    assert device.view().time_left == "time left not known yet"


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (contract.CODE_CANCELLED, contract.ERROR, "cancelled while downloading"),
        (contract.CODE_TOO_LARGE, contract.ERROR, "failed while downloading (tooLarge)"),
        (contract.CODE_SELF_TEST, contract.ROLLED_BACK, "rolled back while downloading (selfTest"),
    ],
)
def test_a_bad_end_is_told_with_its_stage_and_reason(
    device: Device, code: str, status: str, words: str
) -> None:
    device.begin()
    device.enter(contract.DOWNLOADING)
    device.fail(code, status)
    view = device.view()
    assert view.text.startswith(words)
    assert "· 10 % · 0 s left" in view.text
    assert view.message.text == "It is broken."
    assert view.state == words.partition(" while")[0]


def test_each_button_is_there_when_it_makes_sense_and_otherwise_says_why_not(
    device: Device,
) -> None:
    def enabled() -> set[str]:
        view = device.view()
        assert all(reason.endswith(".") for reason in view.refusals.values())
        return set(BUTTONS) - set(view.refusals)

    assert enabled() == {START, POWER_CUT}
    device.begin()
    assert enabled() == {CANCEL, POWER_CUT}
    device.busy = True
    assert enabled() == {POWER_CUT}
    device.busy, device.problem = False, HubUnavailable("away")
    assert enabled() == {POWER_CUT}
    device.problem, device.power = None, False
    assert enabled() == {RESTART}
    device.power = True
    for stage in contract.STAGES[1:]:
        device.enter(stage)
    assert enabled() == {POWER_CUT}, "too late to cancel while it reboots"
    device.complete()
    assert enabled() == {START, POWER_CUT}
    device.closed = True
    assert enabled() == set()


@pytest.mark.parametrize(
    ("problem", "state", "words"),
    [
        (HubUnavailable("The hub does not answer."), "hub away", "hub does not answer"),
        (DeviceNotFound("d", "No device d."), "no identity", "hub has no such device"),
        (ValueError("SharedAccessKey=c2VjcmV0"), "hub refuses", "hub refuses to tell"),
    ],
)
def test_a_twin_that_cannot_be_read_is_told_with_what_was_known_last(
    device: Device, problem: Exception, state: str, words: str
) -> None:
    device.begin()
    device.enter(contract.DOWNLOADING)
    device.problem = problem
    view = device.view()
    assert view.state == state
    assert view.text == f"{words} · 10 % · time left not known yet · update 3f2a"
    assert view.message == Note(error_words(problem), is_error=True)
    assert "c2VjcmV0" not in view.message.text


def test_a_device_that_ended_is_stopped_and_one_without_an_update_invites(device: Device) -> None:
    assert device.view().message.text.startswith("Press Start update")
    device.power = False
    device.events.add("stopped", "The device has stopped.")
    view = device.view()
    assert (view.state, view.text.partition(" · ")[0]) == ("stopped", "device is stopped")
    assert "Restart device" in view.message.text


def test_a_note_stays_for_a_while_and_until_something_new_has_happened(device: Device) -> None:
    device.begin()
    device.note = Note("Refused.", is_error=True)
    assert device.view(after=0).message == device.note
    assert device.view(after=60).message == device.note
    device.fail(contract.CODE_CANCELLED)
    assert device.view().message == Note("It is broken.")
    device.note = Note("Refused again.")
    assert device.view().message == device.note
    device.power = False
    assert device.view(after=4).message == device.note, "new, but just told"
    assert device.view(after=2).message != device.note


def test_a_refusal_while_an_update_runs_says_what_to_do() -> None:
    payload = {"error": {"code": "busy", "message": "One runs."}}
    refusal = UpdateRejected("d", "Busy. Wait for its end.", status=409, payload=payload)
    assert error_words(refusal) == "Busy. Wait for its end. Or press Cancel."


def test_the_log_is_bounded_and_counts_what_repeats_itself() -> None:
    events = EventLog()
    for number in range(2 * LOG_LINES):
        events.add("step", f"Step {number}.")
    for _ in range(12):
        events.add("reported", "Reported state updated.")
    lines = log_lines(events)
    assert len(lines) == LOG_LINES
    assert lines[-1].endswith(" Reported state updated. (× 12)")
    assert lines[-2].endswith(f" Step {2 * LOG_LINES - 1}.")


def test_the_stage_that_runs_grows_between_two_reports_but_not_without_power(
    device: Device,
) -> None:
    device.begin()
    device.enter(contract.DOWNLOADING)
    first = device.view().timeline
    grown = device.view(after=3).timeline
    assert first and grown and first.heard_at and grown.heard_at
    assert grown.heard_at - first.heard_at == timedelta(seconds=3)
    device.power = False
    dark = device.view(after=5).timeline
    assert dark == device.view(after=5).timeline
    device.power = True
    device.fail(contract.CODE_CANCELLED)
    assert device.view().timeline == device.view(after=9).timeline


def test_the_picture_is_drawn_on_a_change_only_and_at_most_twice_a_second(device: Device) -> None:
    shown: list[tuple[bytes | None, str]] = []
    seconds = [0.0]
    picture = Picture(lambda png, alt: shown.append((png, alt)), clock=lambda: seconds[0])
    device.begin()
    view = device.view()
    assert picture.is_due(view)
    picture.draw(view)
    png, alt = shown[-1]
    assert png and png.startswith(b"\x89PNG") and "waiting unfinished" in alt
    seconds[0] = 10.0
    assert not picture.is_due(view), "nothing is new"
    device.enter(contract.DOWNLOADING)
    picture.draw(device.view())
    assert "downloading unfinished" in shown[-1][1]
    device.enter(contract.VERIFYING)
    due = []
    for seconds[0] in (10.0, 10.49, 10.51):
        due.append(picture.is_due(device.view()))
    assert due == [False, False, True]
    picture.draw(replace(view, timeline=None, stages_begun=0, title=""))
    assert shown[-1] == (None, "")


def test_a_picture_needs_no_backend_and_the_package_loads_no_widgets_by_itself() -> None:
    code = """if True:
        import sys
        import fwupdate_helpers
        assert "UpdatePanel" in dir(fwupdate_helpers)
        assert not {"ipywidgets", "matplotlib", "azure"} & set(sys.modules)
        from tests.unit.test_panel_view import Device
        from fwupdate_helpers.widgets.picture import timeline_png
        device = Device()
        device.walk()
        timeline = device.view().timeline
        assert timeline_png(timeline, title="Completed", to_come=()).startswith(b"\\x89PNG")
        assert "matplotlib.pyplot" not in sys.modules
    """
    environment = {**os.environ, "MPLBACKEND": "module://no_such_backend", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
