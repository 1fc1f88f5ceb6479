"""Panel and board in a real kernel that is busy: what their front ends hear meanwhile."""

from __future__ import annotations

import re
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

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


def test_panel_and_board_move_while_a_cell_keeps_the_kernel_busy() -> None:
    cells = [nbformat.v4.new_code_cell(code) for code in (MAKE, WAIT, CLOSE)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"file": "busy.ipynb"})
    with kernel_for(notebook) as client:
        run(client, 0)
        heard = [value for value in run(client, 1) if isinstance(value, str)]
        assert "completed in" in text_of(cells[1])
        lines = [line for value in heard for line in re.findall(r"[\w ]+ · \d+ % · [^<]+", value)]
        assert len(set(lines)) > 1, heard
        assert "completed in" in "".join(heard), "before the cell was over"
        assert "all updates ended" in "".join(heard)
        run(client, 2)
