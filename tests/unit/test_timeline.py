"""The timeline: stages read from twins, and the figure of them."""

from __future__ import annotations

import base64
import doctest
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from azure.iot.hub.models import Twin, TwinProperties
from matplotlib.figure import Figure
from matplotlib.text import Text

from fwupdate_helpers import contract, timeline
from fwupdate_helpers.contract import (
    APPLYING,
    COMPLETED,
    DOWNLOADING,
    ERROR,
    ROLLED_BACK,
    STAND_BY,
    WAITING,
)
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.localhub.twins import merge
from fwupdate_helpers.reported import parse_time, reported_error, update_outcome
from fwupdate_helpers.retry_log import Retry
from fwupdate_helpers.retry_rules import Operation, Verdict
from fwupdate_helpers.timeline import UpdateTimeline, format_seconds, plot_timelines

Json = dict[str, Any]
BEGIN = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def stamp(patch: Json, when: datetime) -> Json:
    """What the hub notes in `$metadata` for a patch; seven digits, as it writes them."""
    text = when.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"
    nodes = {k: stamp(v if isinstance(v, dict) else {}, when) for k, v in patch.items()}
    return {"$lastUpdated": text, **nodes}


def reported_after(*patches: tuple[float, Json], hub_offset: float | None = 0.05) -> Json:
    reported: Json = {}
    metadata: Json = {}
    for seconds, patch in patches:
        reported = merge(reported, patch)
        metadata = merge(metadata, stamp(patch, at(seconds + (hub_offset or 0))))
    return reported if hub_offset is None else {**reported, "$metadata": metadata, "$version": 7}


def patches_of(
    waiting: float, downloading: float, applying: float
) -> tuple[tuple[float, Json], ...]:
    ends = [waiting, waiting + downloading, waiting + downloading + applying]
    return (
        (0, contract.opening_patch("update-1", at(0), "1.1.0")),
        (ends[0], contract.stage_patch(at(ends[0]), contract.WAITING, contract.DOWNLOADING)),
        (ends[1], contract.stage_patch(at(ends[1]), contract.DOWNLOADING, contract.APPLYING)),
        (ends[2], contract.completed_patch(at(ends[2]))),
    )


def rest_twin(reported: Json) -> Json:
    return {"deviceId": "device-01", "properties": {"desired": {}, "reported": reported}}


def timeline_of(*patches: tuple[float, Json], hub_offset: float | None = 0.05) -> UpdateTimeline:
    return UpdateTimeline.from_twin(rest_twin(reported_after(*patches, hub_offset=hub_offset)))


def failed_at(seconds: float, code: str = "hash_mismatch", **changes: Any) -> Json:
    return {**contract.error_patch(at(seconds), DOWNLOADING, code, "The hash differs."), **changes}


COMPLETE = patches_of(5, 5.1, 5.1)
UNFINISHED = COMPLETE[:2]
FAILED = (*UNFINISHED, (7.3, failed_at(7.3)))
ROLLED = (*COMPLETE[:3], (12, failed_at(12, "self_test") | {contract.STATUS: ROLLED_BACK}))
INTERRUPTED = (*UNFINISHED, (60, failed_at(60, contract.CODE_INTERRUPTED, firmwareStatus=STAND_BY)))

TUTORIAL = {
    "firmwareStatus": "completed",
    "logTime": "2018-05-04T12:29:45.000001",
    "downloadComplete": "2018-05-04T12:30:00.123456",
    "startedApplyingImage": "2018-05-04 12:30:15.2",
    "lastFirmwareUpdate": "2018-05-04T12:30:30.500000",
}


def stage_seconds(line: UpdateTimeline) -> dict[str, float | None]:
    return {stage.name: stage.seconds for stage in line.stages}


# --- reading ---


def test_a_completed_update_has_three_ended_stages() -> None:
    line = timeline_of(*COMPLETE)
    assert stage_seconds(line) == pytest.approx({WAITING: 5, DOWNLOADING: 5.1, APPLYING: 5.1})
    assert (line.device_id, line.update_id) == ("device-01", "update-1")
    assert (line.status, line.outcome, line.error) == (COMPLETED, COMPLETED, None)
    assert line.seconds == pytest.approx(15.2)
    assert line.title == "Update completed in 15.2 s: device-01"


def test_an_sdk_twin_its_json_and_the_device_side_twin_tell_the_same_stages() -> None:
    reported = reported_after(*COMPLETE)
    sdk_twin = Twin(device_id="device-01", properties=TwinProperties(reported=reported))
    expected = UpdateTimeline.from_twin(rest_twin(reported))
    assert UpdateTimeline.from_twin(sdk_twin) == expected
    assert UpdateTimeline.from_twin(sdk_twin.as_dict()) == expected
    on_device = UpdateTimeline.from_twin(
        {"desired": {}, "reported": reported_after(*COMPLETE, hub_offset=None)}
    )
    assert stage_seconds(on_device) == stage_seconds(expected)
    assert (on_device.device_id, on_device.hub_offset) == (None, None)
    assert on_device.title == "Update completed in 15.2 s"


def test_the_hub_clock_comes_from_the_metadata_of_the_leaves() -> None:
    line = timeline_of(*COMPLETE, hub_offset=1.25)
    downloading = line.stages[1]
    assert downloading.hub_started_at == at(6.25)
    assert downloading.hub_ended_at == at(11.35)
    assert line.hub_offset == pytest.approx(1.25)
    assert line.heard_at == at(16.45)


def test_an_unfinished_stage_has_no_end() -> None:
    line = timeline_of(*UNFINISHED)
    assert stage_seconds(line) == {WAITING: 5.0, DOWNLOADING: None}
    assert (line.outcome, line.seconds) == (None, None)
    assert line.title == "Update unfinished, last seen downloading: device-01"


def test_a_failed_update_names_the_stage_and_the_code() -> None:
    line = timeline_of(*FAILED)
    assert line.outcome == ERROR
    assert line.title == "Update failed while downloading (hash_mismatch): device-01"
    assert line.describe(line.stages[-1]) == "failed after 2.3 s: hash_mismatch"


def test_a_rolled_back_update_says_so() -> None:
    line = timeline_of(*ROLLED)
    assert line.outcome == ROLLED_BACK
    assert line.title == "Update rolled back while applying (self_test): device-01"


def test_an_interrupted_update_has_failed_although_the_device_stands_by_again() -> None:
    line = timeline_of(*INTERRUPTED)
    assert (line.status, line.outcome) == (STAND_BY, ERROR)
    assert line.title == "Update failed while downloading (interrupted): device-01"


def test_a_completed_update_stays_completed_when_the_device_restarts() -> None:
    line = timeline_of(*COMPLETE, (99, contract.stand_by_patch(at(99))))
    assert (line.status, line.outcome) == (STAND_BY, COMPLETED)


def test_an_open_update_is_not_completed_by_the_last_ones_end() -> None:
    before = {contract.LAST_UPDATE: contract.to_wire(at(-60))}
    assert timeline_of((-60, before), *UNFINISHED).outcome is None


def test_one_stage_alone_is_a_timeline() -> None:
    line = timeline_of(COMPLETE[0])
    assert stage_seconds(line) == {WAITING: None}


def test_stages_of_other_devices_count_in_the_order_of_their_starts() -> None:
    def stage(name: str, start: float, end: float) -> tuple[float, Json]:
        times = {
            contract.STARTED_AT: contract.to_wire(at(start)),
            contract.ENDED_AT: contract.to_wire(at(end)),
        }
        return end, {contract.UPDATE: {contract.STAGES_KEY: {name: times}}}

    line = timeline_of(*UNFINISHED, stage("rebooting", 12, 13), stage("verifying", 10, 12))
    assert list(stage_seconds(line)) == [WAITING, DOWNLOADING, "verifying", "rebooting"]
    stale = timeline_of(stage("rebooting", -50, -40), *COMPLETE)
    assert list(stage_seconds(stale)) == [WAITING, DOWNLOADING, APPLYING]


def test_stages_within_one_millisecond_keep_their_usual_order() -> None:
    line = timeline_of(*patches_of(0, 0, 0))
    assert list(stage_seconds(line)) == [WAITING, DOWNLOADING, APPLYING]


@pytest.mark.parametrize(
    "reported",
    [
        {},
        contract.stand_by_patch(BEGIN),
        {**contract.stand_by_patch(BEGIN), contract.LAST_UPDATE: "2018-05-04T12:30:30.5"},
        {contract.UPDATE: {contract.UPDATE_ID: "update-1", contract.STAGES_KEY: {}}},
        {contract.UPDATE: {contract.STAGES_KEY: {WAITING: {contract.STARTED_AT: "soon"}}}},
        {contract.UPDATE: "nonsense"},
    ],
)
def test_a_twin_without_an_update_says_what_to_do(reported: Json) -> None:
    with pytest.raises(FirmwareUpdateError, match=r"device-01 tells of no update yet\. Invoke"):
        UpdateTimeline.from_twin(rest_twin(reported))


@pytest.mark.parametrize("twin", [None, "device-01", {"firmwareStatus": "completed"}])
def test_what_is_no_twin_is_refused(twin: object) -> None:
    with pytest.raises(TypeError, match="A device twin is needed"):
        UpdateTimeline.from_twin(twin)


def test_a_twin_of_the_sdk_without_properties_has_no_update() -> None:
    with pytest.raises(FirmwareUpdateError):
        UpdateTimeline.from_twin(Twin(device_id="device-01"))


# --- the four timestamps of Azure's tutorial ---


def test_the_tutorials_timestamps_give_the_same_three_stages() -> None:
    line = UpdateTimeline.from_twin(rest_twin(TUTORIAL))
    assert stage_seconds(line) == pytest.approx(
        {WAITING: 15.123455, DOWNLOADING: 15.076544, APPLYING: 15.3}
    )
    assert (line.update_id, line.outcome) == (None, COMPLETED)


def test_the_tutorials_naive_times_are_local_and_meet_the_hub_clock() -> None:
    local = datetime(2018, 5, 4, 12, 30, 0, 123456).astimezone()
    hub = (local + timedelta(seconds=0.25)).astimezone(timezone.utc)
    metadata = {contract.DOWNLOAD_COMPLETE: {"$lastUpdated": f"{hub:%Y-%m-%dT%H:%M:%S.%f}7Z"}}
    line = UpdateTimeline.from_twin(rest_twin({**TUTORIAL, "$metadata": metadata}))
    assert line.stages[1].started_at == local
    assert line.stages[0].hub_ended_at == line.stages[1].hub_started_at == hub
    assert line.hub_offset == pytest.approx(0.25)


def test_an_end_from_the_update_before_leaves_the_tutorials_stage_unfinished() -> None:
    stale = {**TUTORIAL, "firmwareStatus": "applying", "lastFirmwareUpdate": "2018-05-03T08:00:00"}
    line = UpdateTimeline.from_twin(rest_twin(stale))
    assert line.stages[-1].name == APPLYING
    assert line.stages[-1].seconds is None
    assert line.outcome is None


def test_a_second_tutorial_update_shows_no_stage_of_the_first() -> None:
    second = {
        **TUTORIAL,
        "firmwareStatus": "downloading",
        "downloadComplete": "2018-05-04T13:00:00",
    }
    line = UpdateTimeline.from_twin(rest_twin(second))
    assert list(stage_seconds(line)) == [WAITING, DOWNLOADING]
    assert line.stages[-1].ended_at is None


def test_a_restarted_tutorial_device_still_shows_its_last_update() -> None:
    restarted = {**TUTORIAL, "firmwareStatus": "standBy", "logTime": "2018-05-04T18:00:00"}
    line = UpdateTimeline.from_twin(rest_twin(restarted))
    assert list(stage_seconds(line)) == [DOWNLOADING, APPLYING]
    assert line.outcome == COMPLETED


@pytest.mark.parametrize(
    ("missing", "stages"),
    [
        ("logTime", [DOWNLOADING, APPLYING]),
        ("downloadComplete", [APPLYING]),
        ("startedApplyingImage", [WAITING, DOWNLOADING]),
        ("lastFirmwareUpdate", [WAITING, DOWNLOADING, APPLYING]),
    ],
)
def test_missing_tutorial_times_cost_no_more_than_their_stages(
    missing: str, stages: list[str]
) -> None:
    partial = {key: value for key, value in TUTORIAL.items() if key != missing}
    line = UpdateTimeline.from_twin(rest_twin(partial))
    assert list(stage_seconds(line)) == stages


# --- times, durations, outcome ---


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-05-04T12:30:00.000Z", BEGIN),
        ("2026-05-04T12:30:00.1234567Z", at(0.123456)),
        ("2026-05-04T12:30:00Z", BEGIN),
        ("2026-05-04T14:30:00.5+02:00", at(0.5)),
        ("2026-05-04 12:30:00.5+00:00", at(0.5)),
    ],
)
def test_every_spelling_of_a_time_is_read(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize("text", [None, 5, "", "now", "2026-13-04T12:30:00Z", "2026-05-04"])
def test_what_is_no_time_is_none(text: object) -> None:
    assert parse_time(text) is None


def test_durations_are_written_for_people() -> None:
    seconds = (-2, 0.001, 0.0999, 0.7, 0.999, 59.94, 59.96, 119.6, 3599.4, 3599.6, 7301)
    assert [format_seconds(s) for s in seconds] == [
        "−2.0 s", "0.001 s", "0.10 s", "0.70 s", "1.0 s", "59.9 s",
        "1 min", "2 min", "59 min 59 s", "1 h", "2 h 2 min",
    ]  # fmt: skip


def test_an_update_has_no_outcome_before_its_end() -> None:
    assert update_outcome({}) is None
    assert update_outcome(reported_after(*UNFINISHED)) is None
    assert reported_error(reported_after(*UNFINISHED)) is None


def test_the_examples_in_the_docstrings_are_true() -> None:
    results = doctest.testmod(timeline)
    assert results.attempted > 0
    assert results.failed == 0


# --- drawing ---


def texts(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]


def labels_lie_inside(figure: Figure) -> bool:
    figure.draw_without_rendering()
    ax = figure.axes[0]
    inner, page = ax.get_window_extent(), figure.bbox
    labels = [text.get_window_extent() for text in ax.texts]
    written = [text for text in ax.get_children() if isinstance(text, Text) and text.get_text()]
    boxes = [text.get_window_extent() for text in written]
    return all(inner.x0 <= box.x0 and box.x1 <= inner.x1 for box in labels) and all(
        page.x0 <= box.x0 and box.x1 <= page.x1 and box.y1 <= page.y1 for box in boxes
    )


def test_the_figure_has_a_bar_and_a_duration_for_every_stage() -> None:
    figure = timeline_of(*COMPLETE).plot()
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [WAITING, DOWNLOADING, APPLYING]
    assert texts(figure) == ["5.0 s", "5.1 s", "5.1 s"]
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [
        pytest.approx(pair, abs=0.001) for pair in ((0, 5), (5, 5.1), (10.1, 5.1))
    ]
    bottom, top = ax.get_ylim()
    assert bottom > top, "the first stage is the upper row"
    assert ax.get_xlabel() == "time since the update began (s)"
    assert ax.get_title(loc="left") == "Update completed in 15.2 s: device-01"


def test_the_legend_tells_the_two_clocks_apart_by_shape_and_word() -> None:
    figure = timeline_of(*COMPLETE, hub_offset=1.2).plot()
    ax = figure.axes[0]
    legend = ax.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["device clock", "hub clock (1.2 s later)"]
    assert [line.get_marker() for line in ax.lines] == ["D", "D", "D"]
    assert list(ax.lines[0].get_xdata()) == pytest.approx([1.2, 6.2])


@pytest.mark.parametrize(("offset", "words"), [(7300, "2 h 2 min later"), (-9, "9.0 s earlier")])
def test_a_hub_clock_far_off_is_drawn_aligned_and_said_so(offset: float, words: str) -> None:
    figure = timeline_of(*COMPLETE, hub_offset=offset).plot()
    ax = figure.axes[0]
    assert f"hub clock ({words}, drawn aligned)" in str(
        [text.get_text() for text in ax.get_legend().get_texts()]  # type: ignore[union-attr]
    )
    assert list(ax.lines[0].get_xdata()) == pytest.approx([0, 5])
    assert ax.get_xlim()[1] < 20


def test_a_twin_without_metadata_shows_no_hub_clock() -> None:
    figure = timeline_of(*COMPLETE, hub_offset=None).plot()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [  # type: ignore[union-attr]
        "device clock"
    ]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [0, 0, 0]


def test_an_unfinished_stage_is_drawn_up_to_the_last_report_with_a_hatched_open_end() -> None:
    figure = timeline_of(*UNFINISHED, (8, contract.progress_patch(0.6))).plot()
    solid, tail = figure.axes[0].patches[1:]
    assert solid.get_x() + solid.get_width() == pytest.approx(8)
    assert tail.get_hatch() and tail.get_linewidth() == 0
    assert texts(figure)[-1] == "unfinished"


def test_the_words_and_markers_tell_how_an_update_ended_without_colour() -> None:
    failed, rolled = timeline_of(*FAILED).plot(), timeline_of(*ROLLED).plot()
    assert texts(failed)[-1] == "failed after 2.3 s: hash_mismatch"
    assert texts(rolled)[-1].startswith("rolled back")
    assert "X" in [line.get_marker() for line in failed.axes[0].lines]
    assert "<" in [line.get_marker() for line in rolled.axes[0].lines]


@pytest.mark.parametrize(
    ("durations", "labels", "unit"),
    [
        ((0.01, 0.01, 0.01), ["0.010 s"] * 3, "s"),
        ((0, 0, 0), ["0 s"] * 3, "s"),
        ((60, 1740, 1800), ["1 min", "29 min", "30 min"], "min"),
    ],
)
def test_very_short_and_very_long_updates_have_readable_labels(
    durations: tuple[float, float, float], labels: list[str], unit: str
) -> None:
    figure = timeline_of(*patches_of(*durations)).plot()
    assert texts(figure) == labels
    assert figure.axes[0].get_xlabel().endswith(f"({unit})")
    assert labels_lie_inside(figure)


@pytest.mark.parametrize(
    "patches",
    [
        COMPLETE,
        COMPLETE[:1],
        UNFINISHED,
        INTERRUPTED,
        ROLLED,
        (*UNFINISHED, (6, failed_at(6, "signature_not_valid_for_this_kind_of_device"))),
    ],
)
def test_no_label_is_cut_off_and_no_text_or_line_is_too_thin(
    patches: tuple[tuple[float, Json], ...],
) -> None:
    figure = timeline_of(*patches).plot()
    assert labels_lie_inside(figure)
    ax = figure.axes[0]
    legend = ax.get_legend()
    assert legend is not None
    for text in (*ax.texts, *legend.get_texts(), *ax.get_xticklabels(), *ax.get_yticklabels()):
        assert text.get_fontsize() >= 11
    assert all(line.get_linewidth() >= 1.5 for line in ax.lines), "1.5 pt are 2 px at 100 dpi"


def test_a_long_device_id_wraps_in_the_title() -> None:
    twin = rest_twin(reported_after(*FAILED)) | {"deviceId": "thermostat-" * 11}
    assert labels_lie_inside(UpdateTimeline.from_twin(twin).plot())


def test_a_given_ax_is_drawn_on_and_its_figure_returned() -> None:
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(1, 2)
    assert timeline_of(*COMPLETE).plot(axes[1]) is figure
    assert not axes[0].patches
    assert len(axes[1].patches) == 3
    part = figure.add_subfigure(figure.add_gridspec(1, 1)[0])
    assert timeline_of(*COMPLETE).plot(part.add_subplot()) is figure


def test_the_alt_text_states_the_message_and_every_stage() -> None:
    line = timeline_of(*COMPLETE)
    assert str(line) == line.alt_text == (
        "Update completed in 15.2 s: device-01. Stages by the device clock: waiting 5.0 s, "
        "downloading 5.1 s, applying 5.1 s. Hub clock: 0.050 s later."
    )  # fmt: skip


def test_a_notebook_shows_the_figure_with_its_alt_text() -> None:
    twin = rest_twin(reported_after(*COMPLETE)) | {"deviceId": 'a"<b'}
    line = UpdateTimeline.from_twin(twin)
    data, metadata = line.plot()._repr_mimebundle_()  # type: ignore[attr-defined]
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert 'alt="Update completed in 15.2 s: a&quot;&lt;b. Stages' in data["text/html"]
    assert data["text/plain"] == metadata["image/png"]["alt"] == line.alt_text


def test_importing_loads_no_matplotlib_and_drawing_loads_no_pyplot() -> None:
    code = f"""
import sys
from fwupdate_helpers.timeline import UpdateTimeline
assert "matplotlib" not in sys.modules
UpdateTimeline.from_twin({rest_twin(TUTORIAL)!r}).plot()._repr_mimebundle_()
assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def retry_at(seconds: float) -> Retry:
    return Retry(at(seconds), "d", Operation.TWIN, 1, 503, Verdict.RETRY, 0.5)


def test_retries_are_marks_that_the_legend_and_the_alt_text_count() -> None:
    figure = timeline_of(*COMPLETE).plot(retries=[retry_at(2), retry_at(7)])
    (line,) = (line for line in figure.axes[0].lines if line.get_marker() == "v")
    assert list(line.get_xdata()) == [2, 7]
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "retry (2)" in words
    assert figure.alt_text.endswith("The service tried again 2 times.")
    assert "tried again" not in timeline_of(*COMPLETE).plot().alt_text


def test_two_updates_are_drawn_on_one_axis() -> None:
    good, bad = timeline_of(*COMPLETE), timeline_of(*FAILED)
    figure = plot_timelines({"good run": good, "hash": bad}, retries={"hash": [retry_at(1)]})
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_title(loc="left").startswith("good run: update completed")
    assert second.get_title(loc="left").startswith("hash: update failed")
    assert good.alt_text in figure.alt_text and "The service tried again once." in figure.alt_text


def test_timelines_of_minutes_and_of_seconds_have_one_unit() -> None:
    long = timeline_of(*patches_of(300, 300, 300))
    figure = plot_timelines({"short": timeline_of(*COMPLETE), "long": long})
    assert {axes.get_xlabel() for axes in figure.axes} == {"time since the update began (min)"}


def test_nothing_to_draw_together_is_an_error() -> None:
    with pytest.raises(ValueError, match="one timeline or more"):
        plot_timelines({})
    with pytest.raises(ValueError, match="retries of these only"):
        plot_timelines({"a": timeline_of(*COMPLETE)}, retries={"b": []})
