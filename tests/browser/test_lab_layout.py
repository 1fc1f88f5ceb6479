"""`make lab` keeps the layout that a user has made."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Response, expect

from tests.browser.lab_page import open_lab
from tests.browser.lab_server import make_lab

FIRST = "00_start_here.ipynb"
VIEW = "Output View"  # JupyterLab's own name for it

pytestmark = pytest.mark.browser


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
