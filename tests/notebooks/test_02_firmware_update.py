"""Notebook 02 in a real kernel: its pace, its second half alone, steps left out, interrupted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from tests.notebook_runs import FOLDER, code_ids, run, run_code, start_kernel, text_of
from tests.notebook_runs import load as load_notebook
from tests.notebook_stories import check_no_secret, check_the_images, check_the_story

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
    kernel: Callable[..., NotebookClient],
) -> None:
    client = kernel(load(stage_seconds=None))
    seen = display_texts(client)
    ids = code_ids(client.nb)
    for cell_id in ids[: ids.index("exercise-02-c")]:
        if cell_id == "call-twice":  # the default pace has been seen; half of it tells the rest
            run_code(client, "stage_seconds = 1.2")
        run(client, cell_id)

    check_the_story(client.nb)
    cell = {cell.id: cell for cell in client.nb.cells}
    assert "Update completed in 15." in text_of(cell["timeline-hand-built"])
    for texts in (seen["follow"], seen["watch"]):
        states = [re.sub(r"\W*(\w+).*", r"\1", text, flags=re.DOTALL) for text in texts]
        assert list(dict.fromkeys(states)) == ["standBy", "downloading", "applying", "completed"]
    assert len(seen["follow"]) >= 25, "the twin is read every 500 ms for 15 s"


def test_a_step_that_was_left_out_is_named_before_anything_hangs(
    kernel: Callable[..., NotebookClient],
) -> None:
    client = kernel(load())
    for before, cell_id, step in (
        (("set-up", "identity", "connect"), "invoke", 5),
        ((), "on-method", 4),
        (("walk",), "on-method", 3),
    ):
        for earlier in before:
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
