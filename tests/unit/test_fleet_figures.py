"""The pictures of a fleet: what is drawn, what is told, and that it fits."""

from __future__ import annotations

import doctest
import random
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from fwupdate_helpers import (
    contract,
    plot_durations,
    plot_failures,
    plot_fleet,
    plot_stage_counts,
)
from fwupdate_helpers.colours import STAGE_COLOURS
from fwupdate_helpers.fleet_figures import sheet, swimlanes, time_scale
from fwupdate_helpers.fleet_figures.durations import measure_stages
from fwupdate_helpers.fleet_figures.failures import count_causes
from fwupdate_helpers.fleet_figures.moments import Moments
from fwupdate_helpers.fleet_figures.stage_counts import count_stages
from fwupdate_helpers.fleet_figures.time_scale import TimeScale
from fwupdate_helpers.fleet_view import FleetRow, fleet_rows
from tests.fleets import Reporter, fleet, stage_seconds, twin

Plot = Callable[..., Figure]
PLOTS: list[Plot] = [plot_fleet, plot_stage_counts, plot_durations, plot_failures]
STAGES = {contract.WAITING: 1.0, contract.DOWNLOADING: 4.0, contract.APPLYING: 2.0}
FLEETS: dict[str, list[FleetRow]] = {
    "one": fleet(1, waves=None, idle=0, failing=0),
    "ten": fleet(10, waves=(0.1, 0.3, 0.6), failing=0.4),
    "ten running": fleet(10, waves=(0.1, 0.3, 0.6), failing=0.2, until=22),
    "hundred": fleet(100, failing=0.1, pause=3600, skew=300),
    "thousand": fleet(1000, failing=0.05, skew=3600, until=200),
}


@cache
def lanes(name: str) -> Figure:
    """The swimlanes of a fleet, drawn once for all tests that only look at them."""
    return plot_fleet(FLEETS[name])


def alt_text(figure: Any) -> str:
    return str(figure.alt_text)


def bars(figure: Figure) -> dict[str, PolyCollection]:
    """The bars by their stage; a pale collection of one that runs comes after the first."""
    found: dict[str, PolyCollection] = {}
    for one in figure.axes[0].collections:
        if isinstance(one, PolyCollection) and str(one.get_label()) in STAGE_COLOURS:
            found.setdefault(str(one.get_label()), one)
    return found


def marks(figure: Figure, label: str) -> int:
    return sum(
        len(list(line.get_xdata())) for line in figure.axes[0].lines if line.get_label() == label
    )


def words(figure: Figure) -> list[str]:
    """What is written in the picture, and shown."""
    return [
        text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()
    ]


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """The words and their places, without the ticks beyond the axis, which are not drawn."""
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis if figure.axes else None
    low, high = axis.get_view_interval() if axis else (0, 0)
    ticks = axis.get_major_ticks() if axis else []
    beyond = [tick.label1 for tick in ticks if not low <= tick.get_loc() <= high]
    texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    return [(t.get_text(), t.get_window_extent()) for t in texts if t not in beyond]


# --- all of them ---


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("name", FLEETS)
def test_no_word_is_cut_off_or_written_over_another(plot: Plot, name: str) -> None:
    figure = lanes(name) if plot is plot_fleet else plot(FLEETS[name])
    whole = figure.bbox
    shown = boxes(figure)
    for text, box in shown:
        assert box.x0 >= -1 and box.x1 <= whole.width + 1, f"{text!r} is cut off"
        assert box.y0 >= -1 and box.y1 <= whole.height + 1, f"{text!r} is cut off"
    for at, (text, box) in enumerate(shown):
        for other, others_box in shown[at + 1 :]:
            over = Bbox.intersection(box, others_box)
            assert over is None or min(over.width, over.height) < 4, f"{text!r} and {other!r}"


@pytest.mark.parametrize("plot", PLOTS)
def test_nothing_to_draw_is_told_in_words(plot: Plot) -> None:
    idle = fleet_rows([twin("a", {}), twin("b", {})])
    for rows in ([], idle):
        figure = plot(rows)
        assert not figure.axes and alt_text(figure) == " ".join(words(figure)).replace("\n", " ")


@pytest.mark.parametrize("plot", PLOTS)
def test_a_title_of_ones_own_is_shown_and_told(plot: Plot) -> None:
    figure = plot(FLEETS["ten"], title="Friday's $x rollout_1$")
    assert "Friday's $x rollout_1$" in words(figure)
    assert alt_text(figure).startswith("Friday's $x rollout_1$. ")


@pytest.mark.parametrize("plot", PLOTS)
def test_a_stage_that_this_kit_does_not_know_is_drawn(plot: Plot) -> None:
    reporter = Reporter()
    now = reporter.at(1)
    reporter.report(0, contract.opening_patch("u", reporter.at(0)))
    reporter.report(1, contract.stage_patch(now, contract.WAITING, "polishing"))
    reporter.report(3, contract.error_patch(reporter.at(3), "polishing", "dull", "It is dull."))
    figure = plot(fleet_rows([twin("a", reporter.reported)]))
    assert "polishing" in alt_text(figure) or "polishing" in " ".join(words(figure))


def test_drawing_loads_no_pyplot_and_importing_the_rows_no_matplotlib() -> None:
    code = """if True:
        import sys
        import fwupdate_helpers.fleet_view, fwupdate_helpers.queries
        assert "matplotlib" not in sys.modules and "azure.iot.hub" not in sys.modules
        from fwupdate_helpers import plot_fleet
        plot_fleet([])
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- swimlanes ---


@pytest.mark.parametrize("name", ["ten", "hundred"])
def test_every_stage_of_every_device_is_a_bar(name: str) -> None:
    rows = FLEETS[name]
    drawn = bars(lanes(name))
    for stage, collection in drawn.items():
        number = sum(any(span.name == stage for span in row.spans) for row in rows)
        assert len(collection.get_paths()) == number, stage
    assert set(drawn) == {span.name for row in rows for span in row.spans}


def test_failures_are_marks_of_their_own_among_a_thousand_devices() -> None:
    rows = FLEETS["thousand"]
    figure = lanes("thousand")
    assert marks(figure, "failed") == sum(row.state == "failed" for row in rows) > 10
    assert marks(figure, "rolled back") == sum(row.state == "rolled back" for row in rows) > 5
    assert all(
        line.get_markersize() >= 7 for line in figure.axes[0].lines if line.get_marker() == "X"
    )


def test_waves_are_told_with_their_numbers_and_a_canary_is_as_tall_as_it_must_be() -> None:
    figure = lanes("thousand")
    headings = [text for text in words(figure) if text.startswith("wave ")]
    assert [heading.partition(":")[0] for heading in headings] == [
        "wave 1 · 10 devices",
        "wave 2 · 90 devices",
        "wave 3 · 400 devices",
        "wave 4 · 500 devices",
    ]
    assert all(heading in alt_text(figure) for heading in headings)
    heights = [path.get_extents().height for path in bars(figure)[contract.WAITING].get_paths()]
    assert heights[0] > 2 * heights[-1], "bars of the canary are thicker"
    assert sum(heights) < 7.0, "inches, however many devices there are"


def test_few_devices_have_their_names_and_ends_beside_them_and_many_do_not() -> None:
    few, many = FLEETS["ten"], FLEETS["thousand"]
    shown = words(lanes("ten"))
    assert all(row.device_id in shown for row in few)
    assert all(f"✖ {row.error_code}" in shown for row in few if row.state == "failed")
    assert many[0].device_id not in words(lanes("thousand"))


def test_long_names_are_told_apart_by_their_ends() -> None:
    names = [f"{'x' * 60}-fleet-{number:04d}" for number in range(3)]
    assert swimlanes.short_names(names) == ["…0000", "…0001", "…0002"]
    figure = plot_fleet(fleet_rows([twin(name, _completed().reported) for name in names]))
    assert figure.axes[0].get_position().width > 0.6
    other = swimlanes.short_names([f"{number}-{'y' * 50}" for number in range(2)])
    assert len(set(other)) == 2 and all(len(name) == 24 for name in other)


def _completed() -> Reporter:
    reporter = Reporter()
    reporter.update(0, STAGES)
    return reporter


def test_a_wrong_clock_moves_no_bar() -> None:
    right, wrong = Reporter(), Reporter(skew=-7200)
    for reporter in (right, wrong):
        reporter.update(5, STAGES)
    moments = Moments(fleet_rows([twin("a", right.reported), twin("b", wrong.reported)]))
    first, second = moments.bars
    for one, other in zip(first, second, strict=True):
        assert (one.begin, one.end) == pytest.approx((other.begin, other.end), abs=0.002)


def test_what_the_hub_has_not_heard_is_pale_up_to_the_moment_of_the_picture() -> None:
    running, ended = Reporter(), Reporter()
    running.update(0, STAGES, until=2)
    ended.update(0, STAGES)
    rows = fleet_rows([twin("a", running.reported), twin("b", ended.reported)])
    bar = Moments(rows).bars[0][-1]
    assert (bar.stage, bar.begin, bar.end) == (contract.DOWNLOADING, 1.0, pytest.approx(7, abs=0.1))
    assert bar.heard == pytest.approx(1.05, abs=0.06)
    later = Moments(rows, now=running.at(60)).bars[0][-1]
    assert later.end == pytest.approx(60, abs=0.1)
    assert "running, nothing heard yet" in words(plot_fleet(rows))
    done = fleet_rows([twin("b", ended.reported)])
    assert Moments(done, now=running.at(60)).now == pytest.approx(7, abs=0.1), "nothing runs"


def test_updates_that_took_no_time_are_seen() -> None:
    rows = fleet(200, scale=0, idle=0)
    for collection in bars(plot_fleet(rows)).values():
        widths = [path.get_extents().width for path in collection.get_paths()]
        assert min(widths) > 0.002 * Moments(rows).scale.right
    assert "200 devices: " in alt_text(plot_stage_counts(rows))


# --- the axis of time ---


def test_long_pauses_are_cut_out_and_told_and_short_ones_stay() -> None:
    figure = lanes("hundred")
    assert sum(text.startswith("pause 1 h") for text in words(figure)) == 3
    assert not any(text.startswith("pause") for text in words(lanes("thousand")))


def test_the_scale_keeps_order_and_what_happened_is_to_scale() -> None:
    scale = TimeScale([(0, 20), (10, 30), (3630, 3660), (90_000, 90_010)])
    moments = [0, 5, 30, 3630, 3660, 90_000, 90_010]
    places = [scale.place(moment) for moment in moments]
    assert places == sorted(places) and len(set(places)) == len(places)
    assert places[1] - places[0] == pytest.approx(5)
    assert places[-1] - places[-2] == pytest.approx(10)
    assert [(cut.begin, cut.end) for cut in scale.breaks] == [(30, 3630), (3660, 90_000)]
    assert scale.right < 100


@pytest.mark.parametrize(
    "busy",
    [
        [],
        [(0, 0)],
        [(0, 0.0001)],
        [(n, n + 0.001) for n in range(10)],
        [(0, 3)],
        [(0, 59), (0, 3)],
        [(0, 4000)],
        [(0, 86_400 * 30)],
        [(0, 10), (600, 610), (1200, 1210)],
        [(50_000.0 * n, 50_000.0 * n + 1) for n in range(40)],
    ],
    ids=str,
)
def test_ticks_are_few_in_order_and_within_the_axis(busy: list[tuple[float, float]]) -> None:
    scale = TimeScale(busy)
    places = [place for place, _ in scale.ticks]
    assert 1 <= len(places) <= 20 and places == sorted(set(places))
    assert scale.left <= places[0] and places[-1] <= scale.right + 1e-9
    labels = [label for _, label in scale.ticks]
    assert len(set(labels)) == len(labels), labels
    assert not any(
        cut.left + 1e-9 < place < cut.right - 1e-9 for cut in scale.breaks for place in places
    )


# --- stage counts ---


@pytest.mark.parametrize("name", FLEETS)
def test_at_every_moment_each_device_is_in_one_state(name: str) -> None:
    rows = FLEETS[name]
    found = count_stages(rows)
    sums = {sum(numbers) for numbers in zip(*found.counts.values(), strict=True)}
    assert sums == {len(rows)}
    assert min(min(numbers) for numbers in found.counts.values()) == 0
    last = {state: numbers[-1] for state, numbers in found.counts.items() if numbers[-1]}
    states = [row.state for row in rows]
    assert last == {state: states.count(state) for state in states}


def test_two_updates_one_after_the_other_are_never_at_once() -> None:
    first, second = Reporter(), Reporter()
    first.update(0, STAGES)
    second.update(10, STAGES)
    found = count_stages(fleet_rows([twin("a", first.reported), twin("b", second.reported)]))
    assert found.peak == 1
    assert list(found.counts) == ["completed", "applying", "downloading", "waiting", "not begun"]


def test_the_areas_end_at_the_fleets_size() -> None:
    figure = plot_stage_counts(FLEETS["thousand"])
    tops = [one.get_paths()[0].get_extents().y1 for one in figure.axes[0].collections]
    assert max(tops) == 1000 and figure.axes[0].get_ylim() == (0, 1000)
    assert any(text.startswith("completed: ") for text in words(figure))


# --- durations ---


def test_each_device_is_measured_by_its_own_clock_and_failures_are_kept_apart() -> None:
    good, bad, running = Reporter(skew=900), Reporter(), Reporter()
    good.update(0, STAGES)
    bad.update(0, STAGES, failure=contract.CODE_DOWNLOAD_FAILED)
    running.update(0, STAGES, until=2)
    rows = fleet_rows(
        [twin(n, r.reported) for n, r in zip("abc", (good, bad, running), strict=True)]
    )
    found = {each.name: each for each in measure_stages(rows)}
    assert found[contract.WAITING].seconds == pytest.approx([1, 1, 1])
    assert found[contract.DOWNLOADING].seconds == pytest.approx([4])
    assert found[contract.DOWNLOADING].failed == pytest.approx([4])
    assert found["whole update"].seconds == pytest.approx([7])


def test_few_devices_are_dots_and_many_a_distribution() -> None:
    few, many = plot_durations(FLEETS["ten"]), plot_durations(FLEETS["thousand"])
    assert not few.axes[0].collections and any(
        line.get_marker() == "o" for line in few.axes[0].lines
    )
    assert "one device" in words(few) and "one device" not in words(many)
    assert len(many.axes[0].collections) == 6, "five stages and the whole update"
    assert any("95 % within" in text for text in words(many))
    assert not any("95 %" in text for text in words(few)), "a few values have no such thing"


def test_one_device_has_no_median() -> None:
    assert not any("median" in text for text in words(plot_durations(FLEETS["one"])))


def test_a_clock_that_was_set_back_is_left_out_and_told() -> None:
    reporter = Reporter()
    reporter.report(0, contract.opening_patch("u", reporter.at(0)))
    patch = contract.stage_patch(reporter.at(100), contract.WAITING, contract.DOWNLOADING)
    reporter.report(1, patch)
    reporter.report(4, contract.completed_patch(reporter.at(4), contract.DOWNLOADING))
    figure = plot_durations(fleet_rows([twin("a", reporter.reported)]))
    assert "Left out: 1 with a clock that was set back meanwhile." in alt_text(figure)


@pytest.mark.parametrize(("scale", "unit"), [(0.0, "s"), (1.0, "s"), (60.0, "min"), (9000.0, "h")])
def test_durations_from_nothing_to_days_have_an_axis(scale: float, unit: str) -> None:
    figure = plot_durations(fleet(50, scale=scale, idle=0))
    assert f"({unit}" in figure.axes[0].get_xlabel()
    ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    figure.draw_without_rendering()
    assert len(ticks) >= 3, ticks


# --- failures ---


def test_failures_are_counted_by_cause_with_their_share_of_those_that_began() -> None:
    twins = [twin(f"ok-{n}", _completed().reported) for n in range(6)] + [twin("idle", {})]
    for number, code in enumerate(
        [contract.CODE_SELF_TEST] * 1 + [contract.CODE_HASH_MISMATCH] * 3
    ):
        reporter = Reporter()

        reporter.update(0, stage_seconds(random.Random(number)), failure=code)
        twins.append(twin(f"bad-{number}", reporter.reported))
    rows = fleet_rows(twins)
    first, second = count_causes(rows)
    assert (first.code, first.number, first.words) == ("hashMismatch", 3, "while verifying")
    assert (second.number, second.words) == (1, "while rebooting, rolled back")
    figure = plot_failures(rows)
    assert "4 of 10 updates failed (40 %), most often hashMismatch" in words(figure)
    assert "3 · 30 % · while verifying" in words(figure)
    assert [patch.get_width() for patch in figure.axes[0].patches] == [3, 1]


def test_a_refusal_that_only_the_rollout_knows_is_a_failure_too() -> None:
    one = twin("a", {}, wave=1)
    one["tags"]["rollout"] |= {"outcome": "failed", "code": "409"}
    rows = fleet_rows([one, twin("b", _completed().reported, wave=1)])
    assert "1 of 2 updates failed (50 %), with 409" in words(plot_failures(rows))
    assert marks(plot_fleet(rows), "failed") == 1


def test_many_causes_are_summed_up() -> None:
    twins = []
    for number in range(30):
        reporter = Reporter()
        reporter.report(0, contract.opening_patch("u", reporter.at(0)))
        code = f"{number}-{'x' * 40}-$m$"
        patch = contract.error_patch(reporter.at(1), contract.WAITING, code, "")
        reporter.report(1, patch)
        twins.append(twin(f"d-{number}", reporter.reported))
    figure = plot_failures(fleet_rows(twins))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 10 and labels[-1] == "21 others"
    assert sum(patch.get_width() for patch in figure.axes[0].patches) == 30
    assert labels[0].startswith("0-xx") and labels[0].endswith("-$m$") and len(labels[0]) == 26


@pytest.mark.parametrize("module", [time_scale, sheet, swimlanes])
def test_the_examples_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
