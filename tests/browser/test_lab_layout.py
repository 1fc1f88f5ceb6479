"""`make lab`: notebook 00 beside its live panel, and links from notebook to notebook."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Response, expect

from tests.browser.lab_page import LabPage, open_lab
from tests.browser.lab_server import make_lab

FIRST = "00_start_here.ipynb"
SECOND = "01_twins_and_direct_methods.ipynb"
THIRD = "02_firmware_update.ipynb"
VIEW = "Output View"  # JupyterLab's own name for it

pytestmark = pytest.mark.browser


def left_and_right(locator: Locator) -> tuple[float, float]:
    box = locator.bounding_box()
    assert box is not None
    return box["x"], box["x"] + box["width"]


def test_notebook_00_opens_beside_its_live_panel_and_links_lead_on_from_there(
    browser: Browser, tmp_path: Path
) -> None:
    with make_lab(tmp_path) as server, open_lab(browser, server.address) as lab:
        assert lab.path() == FIRST
        expect(lab.tabs).to_have_text([FIRST, VIEW])
        expect(lab.notices).to_have_count(0)
        check_places(lab)
        check_the_panel_comes_up_on_the_right_and_can_be_used_there(lab)

        lab.follow("Continue to 01", to=SECOND)
        lab.screenshot("layout-continued")
        lab.follow("Continue to 02", to=THIRD)
        expect(lab.tabs).to_have_text([FIRST, SECOND, THIRD, VIEW])
        check_places(lab)
        assert len(lab.page.context.pages) == 1, "no second window"
        assert lab.problems == []


def check_places(lab: LabPage) -> None:
    """The notebook has about 60 % of the width, and nothing but icons beside it."""
    width = lab.page.evaluate("innerWidth")
    notebook, view = left_and_right(lab.notebook), left_and_right(lab.output_view)
    assert notebook[0] < 50 and notebook[1] <= view[0] and view[1] > width - 50
    assert 0.5 < (notebook[1] - notebook[0]) / width < 0.65


def check_the_panel_comes_up_on_the_right_and_can_be_used_there(lab: LabPage) -> None:
    expect(lab.output_view.locator(".jp-OutputArea-output")).to_have_count(0)
    lab.screenshot("layout-opened")
    lab.run_above("panel")
    lab.run_cell("panel")
    panels = (lab.output_view, lab.output("panel"))
    for panel in panels:
        expect(lab.button("Start update", within=panel)).to_be_visible()
    before = [panel.inner_text() for panel in panels]
    lab.press("Start update", within=lab.output_view)
    for panel, text in zip(panels, before, strict=True):
        expect(panel).not_to_have_text(text, use_inner_text=True)
    lab.screenshot("layout-panel")


def test_what_the_user_arranged_is_there_at_the_next_make_lab(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        make_lab(tmp_path) as server,
        open_lab(browser, server.address) as lab,
        lab.page.expect_response(is_saved_without_the_view),
    ):
        lab.close_tab(VIEW)
    with make_lab(tmp_path) as server, open_lab(browser, server.address) as lab:
        expect(lab.tabs).to_have_text([FIRST])


def is_saved_without_the_view(response: Response) -> bool:
    request = response.request
    saves = request.method == "PUT" and "/api/workspaces/fwupdate" in request.url
    return saves and "cloned-outputs" not in (request.post_data or "cloned-outputs")
