"""Notebook 02 in a real kernel: from the first cell to the last, twice, too early, interrupted."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from fwupdate_helpers.localhub.config import load_config
from fwupdate_helpers.localhub.statedir import StateDir
from tests.notebook_runs import (
    FOLDER,
    check_no_errors,
    client_for,
    code_ids,
    run,
    start_kernel,
    text_of,
)
from tests.notebook_runs import load as load_notebook

NOTEBOOK = FOLDER / "02_firmware_update.ipynb"


def load(stage_seconds: float | None = 0.4) -> NotebookNode:
    """Read the notebook, with another value in its parameters cell."""
    return load_notebook(NOTEBOOK, stage_seconds)


@pytest.fixture
def kernel() -> Iterator[Callable[[NotebookNode], NotebookClient]]:
    """Return a function that gives a notebook a kernel of its own."""
    clients: list[NotebookClient] = []

    def start(notebook: NotebookNode) -> NotebookClient:
        clients.append(start_kernel(notebook))
        return clients[-1]

    yield start
    for client in clients:
        client._cleanup_kernel()


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
    png = cell.outputs[0].data["image/png"]
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


def first_half(notebook: NotebookNode) -> NotebookNode:
    """Drop what follows the good place to stop, up to the notebook's end matter."""
    ids = [cell.id for cell in notebook.cells]
    del notebook.cells[ids.index("good-place-to-stop") + 1 : ids.index("key-points")]
    return notebook


def test_it_runs_from_the_first_cell_to_the_last_and_cleans_up(shared_hub_folder: Path) -> None:
    notebook = load()
    client_for(notebook).execute()
    check_the_story(notebook)
    check_the_images(notebook)
    check_no_secret(notebook, shared_hub_folder)
    assert not [file for file in (shared_hub_folder / "images").rglob("*") if file.is_file()]


def test_the_second_half_needs_step_1_alone_and_shows_all_stages_and_the_time_left(
    kernel: Callable[..., NotebookClient], shared_hub_folder: Path
) -> None:
    client = kernel(load(1.5))
    ids = code_ids(client.nb)
    texts = display_texts(client)
    for cell_id in ("set-up", *ids[ids.index("key") :]):
        run(client, cell_id)
    check_the_images(client.nb)
    check_no_secret(client.nb, shared_hub_folder)
    pattern = (
        r"\*\*(\w+)\*\* · (\d+)% · (time left to download not known yet|\d+ s left to download)"
    )
    lines = [re.fullmatch(pattern, text) for text in texts["watch-image"]]
    assert all(lines), texts["watch-image"]
    stages = list(dict.fromkeys(line[1] for line in lines if line))
    usual = ["waiting", "downloading", "verifying", "applying", "rebooting", "completed"]
    assert stages == usual
    percents = [int(line[2]) for line in lines if line]
    assert percents == sorted(percents) and any(0 < percent < 100 for percent in percents)
    bars = [state for state in client.widget_state.values() if "bar_style" in state]
    assert [bar["value"] for bar in bars].count(1.0) == 4, "all but the one of the power cut"


def display_texts(client: NotebookClient) -> dict[str, list[str]]:
    """Collect, for each cell, the texts that its line has shown one after the other."""
    texts: dict[str, list[str]] = {}
    original = client.process_message

    def listen(message: dict[str, object], cell: NotebookNode, index: int) -> object:
        if message["msg_type"] == "update_display_data":
            shown = message["content"]["data"]["text/markdown"]  # type: ignore[index]
            texts.setdefault(cell.id, []).append(shown)
        return original(message, cell, index)

    client.process_message = listen  # type: ignore[method-assign,assignment]
    return texts


def test_it_runs_at_its_default_pace_and_shows_the_stages_as_they_pass(
    shared_hub_folder: Path,
) -> None:
    notebook = first_half(load(stage_seconds=None))
    client = client_for(notebook)
    seen = display_texts(client)
    client.execute()

    check_the_story(notebook)
    check_no_secret(notebook, shared_hub_folder)
    assert "Update completed in 15." in text_of(
        next(c for c in notebook.cells if c.id == "timeline")
    )
    for texts in (seen["follow"], seen["watch"]):
        states = [re.sub(r"\W*(\w+).*", r"\1", text, flags=re.DOTALL) for text in texts]
        assert list(dict.fromkeys(states)) == ["standBy", "downloading", "applying", "completed"]
    assert len(seen["follow"]) >= 25, "the twin is read every 500 ms for 15 s"


def test_all_cells_run_twice_in_one_kernel(kernel: Callable[..., NotebookClient]) -> None:
    client = kernel(load(0.3))
    for _ in range(2):
        for cell_id in code_ids(client.nb):
            run(client, cell_id)
        check_the_story(client.nb)
        check_the_images(client.nb)


def test_it_runs_again_after_a_kernel_that_was_killed_in_the_middle(
    kernel: Callable[..., NotebookClient],
) -> None:
    first = kernel(load(5.0))
    for cell_id in code_ids(first.nb):
        if cell_id == "follow":
            break
        run(first, cell_id)
    run_sync(first.km.shutdown_kernel)(now=True)  # type: ignore[union-attr]

    second = first_half(load())
    client_for(second).execute()
    check_the_story(second)


@pytest.mark.parametrize(
    ("before", "cell_id", "step"),
    [
        (("identity", "connect"), "on-method", 4),
        (("identity", "connect"), "invoke", 5),
        (("identity", "connect", "walk"), "on-method", 3),
    ],
)
def test_a_step_that_was_left_out_is_named_before_anything_hangs(
    kernel: Callable[..., NotebookClient], before: tuple[str, ...], cell_id: str, step: int
) -> None:
    client = kernel(load())
    for earlier in ("set-up", *before):
        run(client, earlier)
    with pytest.raises(CellExecutionError, match=f"Run step {step} first"):
        run(client, cell_id)


def test_a_client_that_connects_again_keeps_its_handler(
    kernel: Callable[..., NotebookClient],
) -> None:
    client = kernel(load(0.3))
    for cell_id in code_ids(client.nb)[: code_ids(client.nb).index("invoke")]:
        run(client, cell_id)
    run(client, "connect")
    assert "200" in text_of(run(client, "invoke"))
    assert "**completed**" in text_of(run(client, "follow"))


def interrupt_at_the_first_text(client: NotebookClient) -> None:
    """Interrupt the kernel as soon as a cell changes its line."""
    original = client.process_message
    interrupts = []  # the event loop itself keeps no hold of a task

    def interrupt(message: dict[str, object], cell: NotebookNode, index: int) -> object:
        if message["msg_type"] == "update_display_data":
            client.process_message = original  # type: ignore[method-assign]
            interrupts.append(asyncio.ensure_future(client.km.interrupt_kernel()))  # type: ignore[union-attr]
        return original(message, cell, index)

    client.process_message = interrupt  # type: ignore[method-assign,assignment]


def test_interrupting_the_wait_stops_the_watching_and_not_the_update(
    kernel: Callable[..., NotebookClient],
) -> None:
    client = kernel(load(1.0))
    for cell_id in code_ids(client.nb):
        if cell_id == "follow":
            break
        run(client, cell_id)
    interrupt_at_the_first_text(client)
    assert "stopped watching; the update goes on" in text_of(run(client, "follow"))
    assert "**completed**" in text_of(run(client, "follow"))


def test_interrupting_the_progress_bar_stops_the_watching_and_not_the_update(
    kernel: Callable[..., NotebookClient],
) -> None:
    client = kernel(load(1.0))
    ids = code_ids(client.nb)
    for cell_id in ("set-up", *ids[ids.index("key") : ids.index("watch-image")]):
        run(client, cell_id)
    interrupt_at_the_first_text(client)
    assert "stopped watching; the update goes on" in text_of(run(client, "watch-image"))
    assert "**completed** · 100% · 0 s left" in text_of(run(client, "watch-image"))


def test_watching_an_order_that_does_not_run_ends_at_once(
    kernel: Callable[..., NotebookClient],
) -> None:
    client = kernel(load(1.0))
    ids = code_ids(client.nb)
    for cell_id in ("set-up", *ids[ids.index("key") : ids.index("invoke-image")]):
        run(client, cell_id)
    assert "no such update runs" in text_of(run(client, "watch-image"))


def test_the_device_is_built_in_the_notebook_with_the_sdks_in_plain_sight() -> None:
    code = {cell.id: cell.source for cell in load().cells if cell.cell_type == "code"}
    ids = list(code)
    before_the_class = "\n".join(code[cell_id] for cell_id in ids[: ids.index("device")])
    for call in (
        "IoTHubDeviceClient.create_from_connection_string(",
        "client.connect()",
        "client.patch_twin_reported_properties(",
        "threading.Thread(",
        "client.on_method_request_received = ",
        "MethodResponse.create_from_method_request(",
        "client.send_method_response(",
        "CloudToDeviceMethod(",
        "hub.registry.invoke_device_method(",
        "hub.registry.get_twin(",
    ):
        assert call in before_the_class, call
    assert "SimulatedDevice" not in before_the_class
    device_lines = [
        line
        for cell_id in ("connect", "report", "walk", "on-method")
        for line in code[cell_id].splitlines()
        if line.strip()
    ]
    assert len(device_lines) <= 35


def test_the_signature_is_made_and_checked_in_the_notebook_before_the_package_does_it() -> None:
    code = {cell.id: cell.source for cell in load().cells if cell.cell_type == "code"}
    ids = list(code)
    before = "\n".join(code[cell_id] for cell_id in ids[ids.index("key") : ids.index("build")])
    for call in ("hashlib.sha256(", "key.sign(", "public_key.verify(", "json.dumps("):
        assert call in before, call
    assert "build_image" not in before
    assert '"Range": "bytes=0-99"' in code["range"]
