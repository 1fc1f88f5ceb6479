"""Notebook 02 in a real JupyterLab, driven in a real browser, as a person would."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
STDERR = "[data-mime-type='application/vnd.jupyter.stderr']"
ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
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

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return headless Chromium; without one, skip with words, except in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        assert not os.environ.get("CI"), "CI must have Chromium: .ci/run installs it"
        pytest.skip("no Chromium here; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Run JupyterLab on a copy of the notebooks; return its address and the copy."""
    notebooks = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", notebooks)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.{name}" for name in (f"port={port}", "port_retries=0")]
    command += [f"--ServerApp.root_dir={notebooks}"]
    environment = {
        **os.environ,
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_PATH": str(ROOT / "jupyter"),  # as `make lab` does
        "JUPYTER_CONFIG_DIR": str(tmp_path / "of-a-new-user"),
    }
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_it_answers(f"{address}/api/status", token, server, tmp_path / "lab.log")
        yield f"{address}/lab/tree/{{}}?token={token}", notebooks
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            raise


def wait_until_it_answers(url: str, token: str, server: subprocess.Popen[bytes], log: Path) -> None:
    while server.poll() is None:
        try:
            with urlopen(Request(url, headers={"Authorization": f"token {token}"}), timeout=5):
                return
        except OSError:
            continue
    raise AssertionError(f"JupyterLab ended: {log.read_text()}")


def set_pace(notebook: Path, stage_seconds: float) -> None:
    text = notebook.read_text(encoding="utf-8")
    text, count = re.subn(r"stage_seconds = [0-9.]+", f"stage_seconds = {stage_seconds}", text)
    assert count == 1
    notebook.write_text(text, encoding="utf-8")


def run_all_cells(page: Page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def test_run_all_cells_of_notebook_02_ends_with_the_timeline(
    browser: Browser, lab: tuple[str, Path]
) -> None:
    address, notebooks = lab
    set_pace(notebooks / "02_firmware_update.ipynb", 1.0)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: note_error(message, problems))

    page.goto(address.format("02_firmware_update.ipynb"))
    expect(page.get_by_role("heading", name="Update the firmware of a device")).to_be_visible()
    expect(page.locator(IDLE)).to_be_visible()
    expect(page.get_by_role("dialog").or_(page.get_by_role("alert"))).to_have_count(0)
    page.screenshot(path=BUILD / "lab-02-opened.png")
    run_all_cells(page)
    expect(
        page.get_by_text("standBy · ").or_(page.get_by_text("downloading · ")).first
    ).to_be_visible()
    page.screenshot(path=BUILD / "lab-02-running.png")

    pictures = page.get_by_role("img", name=re.compile("Update completed in .* applying"))
    expect(pictures).to_have_count(3)
    for number, name in enumerate(("hand-built", "simulated", "thermostat")):
        picture = pictures.nth(number)
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.complete && image.naturalWidth > 600")
        page.screenshot(path=BUILD / f"lab-02-{name}.png")
    expect(page.locator(IDLE)).to_be_visible()
    check_progress_bars(page)
    expect(
        page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']")
    ).to_have_count(0)
    assert "SharedAccessKey=" not in page.content().replace("SharedAccessKey=***", "")
    assert not re.search(r"/firmware/[\w-]{8,}", page.content()), "the address of an image"
    assert problems == []
    page.close()


def check_progress_bars(page: Page) -> None:
    """Each update of an image has a bar, and a line of text that tells the same."""
    bars = page.locator(".widget-hprogress .progress-bar")
    expect(bars).to_have_count(5)
    for text, name in (
        (r"^completed · 100% · 0 s left to download$", "completed"),
        (r"^rolledback · 100% · 0 s left to download$", "rolled-back"),
        (r"^downloading · \d+% · ", "power-cut"),
    ):
        line = page.get_by_text(re.compile(text)).first
        line.scroll_into_view_if_needed()
        page.screenshot(path=BUILD / f"lab-02-{name}.png")


def note_error(message: ConsoleMessage, problems: list[str]) -> None:
    if message.type == "error":
        problems.append(message.text)


@pytest.fixture(scope="module", autouse=True)
def build_folder() -> None:
    BUILD.mkdir(exist_ok=True)
