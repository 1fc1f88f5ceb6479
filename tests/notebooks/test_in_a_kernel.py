"""What a front end hears from a real kernel: widgets that move, errors in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.notebook_runs import kernel_for, text_of

MAKE = """
from fwupdate_helpers import FleetBoard, SimulatedDevice, UpdatePanel, connect_hub

hub = connect_hub()
string = hub.device_connection_string(hub.device_id("busy"))
device = SimulatedDevice(string, stage_seconds=0.3, **hub.device_options).start()
panel = UpdatePanel(hub, device, interval=0.05)
board = FleetBoard(hub, f"deviceId = '{device.device_id}'", interval=0.05)
panel
"""
WAIT = """
panel.start_button.click()
board.wait_for("all updates ended")
panel.wait_for("completed").text
"""
REFUSE = """
from fwupdate_helpers import invoke_firmware_update
from fwupdate_helpers.notebook import name_steps

name_steps("busy.ipynb")
for _ in range(2):
    invoke_firmware_update(hub.registry, device.device_id)
"""
CHECK = """
from fwupdate_helpers import exercises

def look(learner):
    raise GeneratorExit("neither the learner's error nor the check's")

exercises.CHECKS = {**exercises.CHECKS, "99-a": look}
exercises.check("99-a")
"""
INTERRUPT = """
import _thread, time

_thread.interrupt_main()
time.sleep(60)
"""
CLOSE = """
panel.close()
board.close()
device.stop()
hub.delete_device(device.device_id)
hub.close()
"""
pytestmark = pytest.mark.timeout(120)


def run(client: NotebookClient, number: int) -> list[Any]:
    """Run a cell; return the values that widgets got between its start and its end."""
    heard: list[Any] = []
    process = client.process_message

    def process_and_note(message: Any, cell: Any, index: int) -> Any:
        if message["msg_type"] == "comm_msg" and message["content"]["data"].get("method"):
            heard.append(message["content"]["data"].get("state", {}).get("value"))
        return process(message, cell, index)

    client.process_message = process_and_note
    client.execute_cell(client.nb.cells[number], number)
    client.process_message = process
    return heard


@pytest.fixture(scope="module")
def client() -> Iterator[NotebookClient]:
    """Return a kernel that has a device and its panel."""
    codes = (MAKE, WAIT, REFUSE, CHECK, INTERRUPT, CLOSE)
    cells = [nbformat.v4.new_code_cell(code) for code in codes]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"file": "busy.ipynb"})
    with kernel_for(notebook) as client:
        run(client, 0)
        yield client
        run(client, codes.index(CLOSE))


def test_panel_and_board_move_while_a_cell_keeps_the_kernel_busy(client: NotebookClient) -> None:
    heard = [value for value in run(client, 1) if isinstance(value, str)]
    assert "completed in" in text_of(client.nb.cells[1])
    lines = [line for value in heard for line in re.findall(r"[\w ]+ · \d+ % · [^<]+", value)]
    assert len(set(lines)) > 1, heard
    assert "completed in" in "".join(heard), "before the cell was over"
    assert "all updates ended" in "".join(heard)


def test_a_refusal_of_a_busy_device_is_a_sentence_and_no_traceback(client: NotebookClient) -> None:
    with pytest.raises(CellExecutionError):
        run(client, 2)
    (shown,) = client.nb.cells[2].outputs[-1].traceback
    assert re.fullmatch(r"UpdateRejected: Device .+ with status 409: .+ Wait for its end.", shown)


def test_the_line_of_a_check_goes_however_the_check_ends(client: NotebookClient) -> None:
    with pytest.raises(CellExecutionError, match="GeneratorExit"):
        run(client, 3)
    assert "checking 99-a" not in text_of(client.nb.cells[3])


def test_an_interrupt_is_a_sentence_and_no_traceback(client: NotebookClient) -> None:
    with pytest.raises(CellExecutionError):
        run(client, 2)  # calls name_steps
    with pytest.raises(CellExecutionError, match="Interrupted"):
        run(client, 4)
    (shown,) = client.nb.cells[4].outputs[-1].traceback
    assert shown.startswith("Interrupted. What the hub and the devices have begun goes on")
