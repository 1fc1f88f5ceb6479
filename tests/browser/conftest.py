"""The browser of all browser tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

FLAGS = (
    # As root, as in most containers, Chromium runs without its sandbox only.
    *(["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []),
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return headless Chromium; without one (or make), skip with words, except in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None or shutil.which("make") is None:
        assert not os.environ.get("CI"), "CI must have make, and Chromium: .ci/run installs it"
        pytest.skip("no Chromium or no make here; on Debian: apt install chromium make")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield chromium
        chromium.close()
