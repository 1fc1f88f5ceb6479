"""JupyterLab in a browser, as a person uses it: cells, menus, tabs, buttons, links.

Everything that is pressed is pressed on the page. What the page does not show for certain
(whether a cell has run, when nothing runs any more) is asked of JupyterLab itself, through
`window.jupyterapp`, which `make_lab` switches on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

BUILD = Path(__file__).parents[2] / "build"
ERRORS = ("stderr", "error")
# JupyterLab's own console errors that tell nothing: this one, when a kernel restarts.
HARMLESS = re.compile("Could not restore the debugger state")
PATIENCE = 60_000  # milliseconds
# The notebook that one sees; `jupyterapp.shell.currentWidget` may be an output view.
NOTEBOOK = """[...jupyterapp.shell.widgets('main')].find(
    panel => panel.isVisible && panel.context && panel.content.widgets)"""
CELLS = f"(({NOTEBOOK})?.content.widgets ?? [])"
CODE_CELLS = f"{CELLS}.filter(cell => cell.model.type === 'code')"
READY = f"window.jupyterapp && ({NOTEBOOK})?.sessionContext.kernelDisplayStatus === 'idle'"
IDLE = f"{READY} && {CODE_CELLS}.every(cell => cell.model.executionState === 'idle')"
RUNS = f"{CODE_CELLS}.map(cell => cell.model.executionCount)"
BUSY = f"{CODE_CELLS}.some(cell => cell.model.executionState === 'running')"


class LabPage:
    """A page with JupyterLab on it. `problems` collects the errors in the browser's console."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._note_error)

    def _note_error(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not HARMLESS.search(message.text):
            self.problems.append(message.text)

    # What one sees

    @property
    def notebook(self) -> Locator:
        """The notebook in front, with its toolbar."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    @property
    def output_view(self) -> Locator:
        """The view of one cell's outputs, apart from its notebook."""
        return self.page.locator(".jp-LinkedOutputView")

    @property
    def notices(self) -> Locator:
        """Everything that pops up over the page: `expect(lab.notices).to_have_count(0)`."""
        return self.page.get_by_role("dialog").or_(self.page.get_by_role("alert"))

    @property
    def standard_error(self) -> Locator:
        """What cells have written to standard error, tracebacks included."""
        return self.notebook.locator(
            ", ".join(f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in ERRORS)
        )

    @property
    def tabs(self) -> Locator:
        """The titles in the main area, left to right: `expect(lab.tabs).to_have_text([…])`."""
        return self.page.locator("#jp-main-dock-panel .lm-TabBar-tabLabel")

    def path(self) -> str:
        """Return the path of the notebook in front, such as `00_start_here.ipynb`."""
        return str(self.page.evaluate(f"({NOTEBOOK}).context.path"))

    def cell(self, cell_id: str) -> Locator:
        """Scroll to the cell with the id `cell_id` of the notebook in front, and return it."""
        index = self.page.evaluate(
            f"id => {CELLS}.findIndex(cell => cell.model.id === id)", cell_id
        )
        assert index >= 0, f"{self.path()} has no cell {cell_id}"
        self.page.evaluate(f"index => ({NOTEBOOK}).content.scrollToItem(index)", index)
        cell = self.notebook.locator(f".jp-Cell[data-windowed-list-index='{index}']")
        cell.scroll_into_view_if_needed()
        return cell

    def output(self, cell_id: str) -> Locator:
        """Scroll to a cell and return what stands below it: `expect(...).to_contain_text(...)`."""
        return self.cell(cell_id).locator(".jp-Cell-outputWrapper")

    def screenshot(self, name: str) -> None:
        """Save what one sees as `build/lab-{name}.png`."""
        BUILD.mkdir(exist_ok=True)
        self.page.screenshot(path=BUILD / f"lab-{name}.png")

    # What one does

    def choose(self, menu: str, entry: str) -> None:
        """Choose from a menu, for the notebook in front: `choose("Kernel", "Interrupt Kernel")`."""
        self.show(self.path())
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(entry, exact=True).click()

    def show(self, title: str) -> None:
        """Bring the tab with this title to the front."""
        self._tab(title).click()

    def close_tab(self, title: str) -> None:
        """Close the tab with this title."""
        tab = self._tab(title)
        tab.locator(".lm-TabBar-tabCloseIcon").click()
        expect(tab).to_have_count(0)

    def _tab(self, title: str) -> Locator:
        tabs = self.page.locator("#jp-main-dock-panel .lm-TabBar-tab")
        return tabs.filter(has_text=re.compile(rf"^\s*{re.escape(title)}\s*$"))

    def run_all_cells(self, *, wait: bool = True) -> None:
        """*Run → Run All Cells*; with `wait`, until the last one has run (or one has failed)."""
        self._run(lambda: self.choose("Run", "Run All Cells"), wait=wait)

    def run_above(self, cell_id: str, *, wait: bool = True) -> None:
        """*Run → Run All Above Selected Cell*, with this cell selected."""
        self.cell(cell_id).locator(".jp-InputPrompt").click()
        self._run(lambda: self.choose("Run", "Run All Above Selected Cell"), wait=wait)

    def run_cell(self, cell_id: str, *, wait: bool = True) -> None:
        """Run one code cell (Ctrl+Enter in it); with `wait`, until it has run."""
        self.cell(cell_id).locator(".cm-content").click()
        self._run(lambda: self.page.keyboard.press("Control+Enter"), wait=wait)

    def _run(self, start: Callable[[], None], *, wait: bool) -> None:
        before = self.page.evaluate(RUNS)
        start()
        self.page.wait_for_function(
            f"before => {BUSY} || JSON.stringify({RUNS}) !== JSON.stringify(before)", arg=before
        )
        if wait:
            self.wait_for_idle()

    def restart_kernel(self) -> None:
        """*Kernel → Restart Kernel…*, and yes; outputs stay. `run_all_cells()` may follow."""
        self.choose("Kernel", "Restart Kernel…")
        with self.page.expect_response(re.compile(r"/api/kernels/[^/]+/restart")):
            self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.wait_for_idle()

    def wait_for_idle(self, seconds: float = 60) -> None:
        """Wait until the kernel is there and no cell of the notebook in front runs or waits."""
        self.page.wait_for_function(f"() => {IDLE}", timeout=seconds * 1000)

    def source(self, cell_id: str) -> str:
        """Return the source of a cell as it stands in the page."""
        return str(self._model(cell_id)["source"])

    def replace_source(self, cell_id: str, source: str) -> None:
        """Type `source` over what a cell holds."""
        self.cell(cell_id).locator(".cm-content").fill(source)
        assert self.source(cell_id) == source, "the editor completed what was typed"

    def _model(self, cell_id: str) -> dict[str, Any]:
        found = f"id => {CELLS}.find(cell => cell.model.id === id)?.model.toJSON()"
        model: dict[str, Any] | None = self.page.evaluate(found, cell_id)
        assert model is not None, f"{self.path()} has no cell {cell_id}"
        return model

    def button(self, text: str, *, within: Locator | None = None) -> Locator:
        """Return the widget button with this text: `expect(lab.button("Cancel")).to_be_enabled()`.

        `within`: the notebook in front (default), `lab.output_view`, or `lab.output("cell-id")`.
        """
        outputs = (within or self.notebook).locator(".jp-OutputArea-output")
        # By its text: the accessible name has the glyph of its icon, too.
        buttons = outputs.get_by_role("button")
        return buttons.filter(has_text=re.compile(rf"^\s*{re.escape(text)}\s*$"))

    def press(self, text: str, *, within: Locator | None = None) -> None:
        """Press the widget button with this text as soon as it can be pressed; see `button`."""
        self.button(text, within=within).click()

    def follow(self, link: str, *, to: str) -> None:
        """Click a link in the notebook in front; wait until notebook `to` is there, and idle."""
        self.notebook.get_by_role("link", name=link).click()
        self.page.wait_for_function(f"path => ({NOTEBOOK})?.context.path === path", arg=to)
        self.wait_for_idle()


@contextmanager
def open_lab(browser: Browser, address: str) -> Iterator[LabPage]:
    """Open JupyterLab in a window of a projector's size, and wait until its notebook is idle.

    What a test saw when it failed is in `build/lab-failed.png`.
    """
    lab = LabPage(browser.new_page(viewport={"width": 1280, "height": 900}))
    try:
        lab.page.goto(address)
        lab.page.wait_for_function("() => window.jupyterapp")
        lab.page.evaluate("() => jupyterapp.restored")  # the layout is as it was saved
        lab.wait_for_idle()
        yield lab
    except BaseException:
        lab.screenshot("failed")
        raise
    finally:
        lab.page.close()
