"""The first hour of the workshop in a real JupyterLab: 00, 01 and 02, as a person walks them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.lab_page import LabPage, open_lab
from tests.browser.lab_server import copy_kit, make_lab, set_pace
from tests.notebook_runs import SOLUTIONS

START, TALK, UPDATE = (
    "00_start_here.ipynb",
    "01_twins_and_direct_methods.ipynb",
    "02_firmware_update.ipynb",
)

VIEW = "Output View"  # JupyterLab's own name for it

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_the_first_hour(browser: Browser, tmp_path: Path) -> None:
    notebooks = copy_kit(tmp_path)
    for name in (START, UPDATE):
        set_pace(notebooks / name, 1.0)
    with make_lab(tmp_path) as server, open_lab(browser, server.address) as lab:
        assert lab.path() == START
        expect(lab.tabs).to_have_text([START, VIEW])
        expect(lab.notices).to_have_count(0)
        check_places(lab)
        walk_00(lab)
        lab.follow("Continue to 01", to=TALK)
        walk_01(lab)
        lab.follow("Continue to 02", to=UPDATE)
        walk_02(lab)
        expect(lab.tabs).to_have_text([START, TALK, UPDATE, VIEW])
        assert len(lab.page.context.pages) == 1, "no second window"
        assert lab.problems == []


def check_places(lab: LabPage) -> None:
    """The notebook has a little more than half of the width; the panel's place is still empty."""
    width = lab.page.evaluate("innerWidth")
    notebook, view = left_and_right(lab.notebook), left_and_right(lab.output_view)
    assert notebook[0] < 50 and notebook[1] <= view[0] and view[1] > width - 50
    assert 0.45 < (notebook[1] - notebook[0]) / width < 0.6
    expect(lab.output_view.locator(".jp-OutputArea-output")).to_have_count(0)
    lab.screenshot("00-opened")


def left_and_right(locator: Locator) -> tuple[float, float]:
    box = locator.bounding_box()
    assert box is not None
    return box["x"], box["x"] + box["width"]


def walk_00(lab: LabPage) -> None:
    """The check of the computer; the panel, pressed again after all cells have run."""
    lab.run_all_cells()
    expect(lab.output("set-up")).to_contain_text("This machine is ready.")
    lab.screenshot("00-doctor")
    panel = lab.output_view
    expect_state(panel, "completed")
    press_start_and_see_it_move(lab, panel)
    lab.output("check-00-a")
    lab.screenshot("00-panel")
    check_nothing_leaked_or_failed(lab)


def walk_01(lab: LabPage) -> None:
    """Every picture of the wire is there; one exercise is solved and its check passes."""
    lab.run_all_cells()
    pictures = ("picture-report", "picture-desired", "invoke", "online")
    for cell_id in pictures:
        picture = lab.output(cell_id).get_by_role("img")
        expect(picture).to_have_attribute("alt", re.compile(r"\w+ .* \w+"))
        assert picture.evaluate("image => image.complete && image.naturalWidth > 600")
        picture.scroll_into_view_if_needed()
        lab.screenshot(f"01-{cell_id}")
    check_nothing_leaked_or_failed(lab)
    solve(lab, "01-a", before=("identity", "connect", "report", "patch"))
    lab.screenshot("01-solved")


def solve(lab: LabPage, exercise: str, *, before: tuple[str, ...]) -> None:
    """Type a solution, after the cells that it needs, and see the card change."""
    expect(lab.output(f"check-{exercise}")).to_contain_text("not attempted")
    for cell_id in ("set-up", *before):
        lab.run_cell(cell_id)
    solution = (SOLUTIONS / f"{exercise}.py").read_text(encoding="utf-8").strip()
    lab.replace_source(f"exercise-{exercise}", solution)
    lab.run_cell(f"exercise-{exercise}")
    lab.run_cell(f"check-{exercise}")
    expect(lab.output(f"check-{exercise}")).to_contain_text("● correct")


def walk_02(lab: LabPage) -> None:
    """The cells' own line and bars; the panel, a power cut by a button, and the recovery."""
    lab.run_all_cells(wait=False)
    state = lab.notebook.get_by_text("standBy · ").or_(lab.notebook.get_by_text("downloading · "))
    expect(state.first).to_be_visible()
    lab.screenshot("02-running")
    lab.wait_for_idle(120)
    check_timelines(lab)
    check_progress_bars(lab)
    panel = lab.output("panel")
    expect_state(panel, "completed")
    press_start_and_see_it_move(lab, panel)
    cut_the_power_and_recover(lab, panel)
    check_nothing_leaked_or_failed(lab)


def press_start_and_see_it_move(lab: LabPage, panel: Locator) -> None:
    """A second run, from the first stage to the end, in the panel's line of text and its bar."""
    lab.press("Start update", within=panel)
    expect_state(panel, "downloading")
    bar = panel.get_by_role("progressbar")
    assert int(bar.get_attribute("aria-valuenow") or 0) < 100
    expect_state(panel, "completed")
    expect(bar).to_have_attribute("aria-valuenow", "100")


def cut_the_power_and_recover(lab: LabPage, panel: Locator) -> None:
    lab.press("Start update", within=panel)
    expect_state(panel, "downloading")
    lab.press("Power cut", within=panel)
    expect_state(panel, "device has no power")
    lab.screenshot("02-panel-no-power")
    lab.press("Restart device", within=panel)
    expect_state(panel, "completed")
    expect(panel).to_contain_text("resumed")
    lab.screenshot("02-panel-recovered")


def expect_state(panel: Locator, state: str) -> None:
    expect(panel.get_by_role("status")).to_contain_text(re.compile(rf"^\W*{state} "))


def check_timelines(lab: LabPage) -> None:
    for name in ("timeline-hand-built", "timeline", "timeline-image"):
        picture = lab.output(name).get_by_role("img")
        expect(picture).to_have_attribute("alt", re.compile("Update completed in .* applying"))
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.complete && image.naturalWidth > 600")
        lab.screenshot(f"02-{name}")


def check_progress_bars(lab: LabPage) -> None:
    """Each update of an image has a bar, and a line of text that tells the same."""
    for cell_id, text in (
        ("watch-image", r"^completed · 100% · 0 s left to download$"),
        ("watch-bad", r"^rolledback · 100% · 0 s left to download$"),
        ("power-cut", r"^downloading · \d+% · "),
    ):
        output = lab.output(cell_id)
        expect(output.locator(".widget-hprogress .progress-bar")).to_have_count(1)
        expect(output.get_by_text(re.compile(text))).to_be_visible()
        lab.screenshot(f"02-{cell_id}")


def check_nothing_leaked_or_failed(lab: LabPage) -> None:
    expect(lab.standard_error).to_have_count(0)
    content = lab.page.content()
    assert "SharedAccessKey=" not in content.replace("SharedAccessKey=***", "")
    assert not re.search(r"/firmware/[\w-]{8,}", content), "the address of an image"
