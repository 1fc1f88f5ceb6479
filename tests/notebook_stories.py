"""What a reader must have seen after running all cells of a notebook."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fwupdate_helpers.localhub.config import load_config
from fwupdate_helpers.localhub.statedir import StateDir
from tests.notebook_runs import check_no_errors, text_of


def story_00(notebook: NotebookNode) -> None:
    """A machine that is ready, an identity, a connection, a panel that shows an update."""
    cell = {cell.id: cell for cell in notebook.cells}
    assert "This machine is ready." in text_of(cell["set-up"])
    assert "local hub on this machine" in text_of(cell["hub"])
    assert re.search("created|409", text_of(cell["identity"]))
    assert "enabled · Disconnected" in text_of(cell["read-identity"])
    assert "SharedAccessKey=***" in text_of(cell["connection-string"])
    assert re.search(r"before: Disconnected\s+after:  Connected", text_of(cell["connect"]))
    shown = [kind for output in cell["panel"].outputs for kind in output.get("data", {})]
    assert "application/vnd.jupyter.widget-view+json" in shown


def story_01(notebook: NotebookNode) -> None:
    """Merge patches, versions, a conflict, a method, both kinds of refusal, a late wish."""
    cell = {cell.id: cell for cell in notebook.cells}
    assert re.search(r"'percent': 86}, .*'\$version': \d", text_of(cell["patch"]))
    assert "204" in text_of(cell["trace-report"]) and "GET /twins/" in text_of(cell["trace-report"])
    assert re.search(r"a little later: 1200 1200", text_of(cell["desire"]))
    assert "412 Precondition Failed" in text_of(cell["etag"]) and "800" in text_of(cell["etag"])
    assert re.search(
        r"True. Answer 200 {'Response': 'Rebooting'} after \d+ ms", text_of(cell["invoke"])
    )
    assert "startedAt" in text_of(cell["reboot-state"])
    assert "404 no method selfDestruct" in text_of(cell["no-such-method"])
    assert "**504**" in text_of(cell["time-out"]) and "False" in text_of(cell["time-out"])
    assert "True" in text_of(cell["after-time-out"])
    assert "wish:  taken" in text_of(cell["offline"]) and "404 404103" in text_of(cell["offline"])
    assert "500 500" in text_of(cell["online"])
    for picture in ("picture-report", "picture-desired", "invoke", "online"):
        check_figure(cell[picture])


def story_02(notebook: NotebookNode) -> None:
    """Both halves."""
    check_the_story(notebook)
    check_the_images(notebook)


def check_the_story(notebook: NotebookNode) -> None:
    """What a reader must have seen after running all cells."""
    cell = {cell.id: cell for cell in notebook.cells}
    assert "local hub on this machine" in text_of(cell["set-up"])
    assert "SharedAccessKey=***" in text_of(cell["identity"])
    assert "'firmwareStatus': 'standBy'" in text_of(cell["read-twin"])
    assert "200 {'Response': 'Firmware update started'}" in text_of(cell["invoke"])
    assert "listening: True" in text_of(cell["invoke"])
    assert "**completed**" in text_of(cell["follow"])
    assert "Update completed" in text_of(cell["timeline-hand-built"])
    assert text_of(cell["call-twice"]).count("200") == 2
    assert "call 2: 409" in text_of(cell["invoke-twice"])
    assert "**completed** · download 100 %" in text_of(cell["watch"])
    for stage in ("waiting", "downloading", "applying"):
        assert stage in text_of(cell["timeline"])
    for figure in ("timeline-hand-built", "timeline"):
        check_figure(cell[figure])
    check_no_errors(notebook)


def check_the_images(notebook: NotebookNode) -> None:
    """What the second half must have shown: signatures, slots, stages, a rollback, a resume."""
    cell = {cell.id: cell for cell in notebook.cells}
    words = re.findall(r"refused: (\w+)", text_of(cell["flip"]))
    assert words == ["hashMismatch", "badSignature", "badSignature"]
    assert "206 bytes 0-99/" in text_of(cell["range"])
    assert "'slots': {'active': 'a', 'a': '1.0.0'}" in text_of(cell["read-slots"])
    assert re.search(r"\*\*completed\*\* · 100% · 0 s left", text_of(cell["watch-image"]))
    assert "'slots': {'active': 'b', 'a': '1.0.0', 'b': '2.0.0'}" in text_of(cell["watch-image"])
    check_figure(cell["timeline-image"])
    told = cell["timeline-image"].outputs[0].data["text/plain"]
    stages = re.findall(r"(\w+) [\d.]+ s[,.]", told.partition("clock:")[2])
    assert stages == ["waiting", "downloading", "verifying", "applying", "rebooting"]
    assert "already started" in text_of(cell["ask-again"])
    assert "already up to date" in text_of(cell["ask-again"])
    after_a_bad_one = "'slots': {'active': 'b', 'a': '3.0.0', 'b': '2.0.0'}"
    for cell_id, code in (("watch-bad", "selfTestFailed"), ("watch-foreign", "badSignature")):
        assert code in text_of(cell[cell_id])
        assert after_a_bad_one in text_of(cell[cell_id])
    assert "**rolledback**" in text_of(cell["watch-bad"])
    check_the_resume(cell["power-cut"], cell["resume"])
    check_no_errors(notebook)


def check_the_resume(cut: NotebookNode, resumed: NotebookNode) -> None:
    """Bytes that were on the chip when the power was cut were not fetched again."""
    numbers = re.search(r"kept: (\d+) bytes; first report.*: (\d+)", text_of(resumed))
    assert numbers, text_of(resumed)
    kept, first = int(numbers[1]), int(numbers[2])
    assert f"on the chip: {kept} bytes" in text_of(cut)
    assert 0 < kept < 2 * 1024 * 1024, "the cut came in the middle of the download"
    assert kept <= first
    assert "'action': 'resumed'" in text_of(resumed)
    assert "{'active': 'a', 'a': '3.0.1', 'b': '2.0.0'}" in text_of(resumed)


def check_figure(cell: NotebookNode) -> None:
    """One of a cell's outputs is a picture."""
    png = next(one.data["image/png"] for one in cell.outputs if "image/png" in one.get("data", {}))
    assert base64.b64decode(png).startswith(b"\x89PNG")


def check_no_secret(notebook: NotebookNode, state_dir: Path) -> None:
    """No policy key of the hub, and nothing that looks like a device key, is in any output."""
    text = nbformat.writes(notebook)
    outputs = [cell for cell in notebook.cells if cell.cell_type == "code"]
    keys = [key for pair in load_config(StateDir(state_dir))["policies"].values() for key in pair]
    assert not [key for key in keys if key in text]
    assert not re.search(r"SharedAccessKey=[^*\"';]|sig=[A-Za-z0-9%]{16}", text)
    assert not re.search(r"/firmware/[\w-]{8,}", text), "looks like the address of an image"
    shown = "\n".join(re.sub(r"data:image/png[^\"]*", "", text_of(cell)) for cell in outputs)
    assert not re.search(r"[A-Za-z0-9+/]{43}=", shown), "looks like a key of a device"


def story_03(notebook: NotebookNode) -> None:
    """Ten failures, each with its code, and what became of it."""
    cell = {cell.id: cell for cell in notebook.cells}
    assert re.search(r"404 404103 after \d+ ms", text_of(cell["offline"]))
    assert re.search(r"404: try 2 comes in", text_of(cell["by-hand"]))
    assert "200 {'Response': 'Firmware update started'}" in text_of(cell["by-hand"])
    assert "completed" in text_of(cell["by-hand-end"])
    assert "429 Retry-After: 1" in text_of(cell["throttle"])
    assert text_of(cell["throttled"]).count("429001") >= 2
    assert "The service tried again" in text_of(cell["throttled-timeline"])
    assert "**UpdateTimeout**" in text_of(cell["lost-answer"])
    assert "heard: True" in text_of(cell["look"]) and "completed" in text_of(cell["look"])
    assert "504101" in text_of(cell["resolved"]) and "**completed**" in text_of(cell["resolved"])
    assert "**UpdateRejected**" in text_of(cell["busy"]) and "completed" in text_of(cell["busy"])
    assert "**completed**" in text_of(cell["cut"])
    sent, whole = re.findall(r"([\d,]+) bytes sent of an image of ([\d,]+)", text_of(cell["cut"]))[
        0
    ]
    assert int(sent.replace(",", "")) >= int(whole.replace(",", "")) > 0
    for cell_id, code in (
        ("corrupt", "hashMismatch"),
        ("signature", "badSignature"),
        ("rollback", "selfTestFailed"),
    ):
        assert code in text_of(cell[cell_id]), cell_id
    assert "**rolledback**" in text_of(cell["rollback"])
    assert "no power" in text_of(cell["power-cut"])
    assert re.search(r"'action': '(resumed|confirmed)'", text_of(cell["power-back"]))
    assert "**completed**" in text_of(cell["lost-acknowledgement"])
    assert "look at the twin first" in text_of(cell["rules"])
    for picture in ("good", "throttled-timeline", "rollback", "compare"):
        check_figure(cell[picture])


def story_04(notebook: NotebookNode) -> None:
    """Pages, groups, a job and a configuration that wait for who is off; a canary that stops."""
    cell = {cell.id: cell for cell in notebook.cells}
    assert "50 online" in text_of(cell["fleet"])
    assert "'site': 'oslo'" in text_of(cell["profile"])
    assert "more to come: True" in text_of(cell["query"])
    assert text_of(cell["page"]).strip() == "50"
    for word in ("'site': 'porto'", "'firmware': '1.1.0'", "'devices': 7"):
        assert word in text_of(cell["group"]), "the SDK has no order of columns"
    assert re.search(r"(\d+) of \1 run 2\.0\.0 · job \*\*completed", text_of(cell["wake"]))
    assert re.search(r"'pending': 2|'completed': \d+", text_of(cell["job-rows"]))
    assert re.search(r"fleet-\d{4} 20\d\d-\d\d-\d\dT", text_of(cell["when"]))
    assert re.search(r"'targetedCount': (\d+), 'appliedCount': \1", text_of(cell["metrics"]))
    assert re.search(r"(\d+) of \1 are current", text_of(cell["catch-up"]))
    assert "rolledback" in text_of(cell["wave"])
    assert "to version 3.0.0" in text_of(cell["plan"])
    assert "stopped after wave 1: 1 of 1 updates failed" in text_of(cell["bad"])
    assert "'3.0.0'" not in text_of(cell["untouched"])
    for cell_id in ("good", "load"):
        assert re.search(r"completed\. (\d+) of \1 devices run", text_of(cell[cell_id])), cell_id
    for picture in ("lanes", "counts"):
        check_figure(cell[picture])


STORIES: Mapping[str, Callable[[NotebookNode], None]] = {
    "00": story_00,
    "01": story_01,
    "02": story_02,
    "03": story_03,
    "04": story_04,
}
"""The story of each notebook, by its number."""
