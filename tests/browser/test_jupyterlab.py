"""Notebook 02 in a real JupyterLab, driven in a real browser, as a person would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.lab_page import LabPage, open_lab
from tests.browser.lab_server import copy_kit, make_lab, set_pace

NOTEBOOK = "02_firmware_update.ipynb"

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


def test_run_all_cells_of_notebook_02_ends_with_the_timeline(
    browser: Browser, tmp_path: Path
) -> None:
    set_pace(copy_kit(tmp_path) / NOTEBOOK, 1.0)
    with (
        make_lab(tmp_path, f"FIRST_NOTEBOOK={NOTEBOOK}") as server,
        open_lab(browser, server.address) as lab,
    ):
        heading = lab.notebook.get_by_role("heading", name="Update the firmware of a device")
        expect(heading).to_be_visible()
        expect(lab.tabs).to_have_text([NOTEBOOK])
        expect(lab.notices).to_have_count(0)
        lab.screenshot("02-opened")
        lab.run_all_cells(wait=False)
        state = lab.page.get_by_text("standBy · ").or_(lab.page.get_by_text("downloading · "))
        expect(state.first).to_be_visible()
        lab.screenshot("02-running")

        check_timelines(lab)
        lab.wait_for_idle()
        check_progress_bars(lab)
        check_nothing_leaked_or_failed(lab)


def check_timelines(lab: LabPage) -> None:
    pictures = lab.page.get_by_role("img", name=re.compile("Update completed in .* applying"))
    expect(pictures).to_have_count(3)
    for number, name in enumerate(("hand-built", "simulated", "thermostat")):
        picture = pictures.nth(number)
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.complete && image.naturalWidth > 600")
        lab.screenshot(f"02-{name}")


def check_progress_bars(lab: LabPage) -> None:
    """Each update of an image has a bar, and a line of text that tells the same."""
    expect(lab.page.locator(".widget-hprogress .progress-bar")).to_have_count(5)
    for text, name in (
        (r"^completed · 100% · 0 s left to download$", "completed"),
        (r"^rolledback · 100% · 0 s left to download$", "rolled-back"),
        (r"^downloading · \d+% · ", "power-cut"),
    ):
        line = lab.page.get_by_text(re.compile(text)).first
        line.scroll_into_view_if_needed()
        lab.screenshot(f"02-{name}")


def check_nothing_leaked_or_failed(lab: LabPage) -> None:
    expect(lab.standard_error).to_have_count(0)
    content = lab.page.content()
    assert "SharedAccessKey=" not in content.replace("SharedAccessKey=***", "")
    assert not re.search(r"/firmware/[\w-]{8,}", content), "the address of an image"
    assert lab.problems == []
