"""Every notebook on a hub that the kit takes for one on Azure, under the limits of the free tier.

`make test-azure` runs the same on a real account.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from fwupdate_helpers.hub import Hub
from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.statedir import StateDir
from tests.azure_mode import CONTAINER, HTTPS_PORT, STRING, AzureMode, azure_mode, is_real
from tests.notebook_runs import (
    NOTEBOOKS,
    check_no_errors,
    code_ids,
    kernel_for,
    load,
    outcome_of,
    put_solution,
    run,
    run_code,
    text_of,
)
from tests.notebook_stories import check_no_key
from tests.support import may_listen, missing_tool

PACE = 1.0 if is_real() else 0.1
ON_443 = {"00", "02", "05"}
"""Notebooks that meet a hub without a port in its name; the others meet one with a port."""
UNSOLVED = {"01-c"}
"""Exercises whose check would keep the pump away for seconds, and that others are tested with."""
PUBLISHING = {"02", "03", "04"}
ASK = """
print(hub.kind, type(hub.registry).__module__, hub.device_options, sep=" ")
"""
MUST_SHOW = {
    "00": {
        "hub": "an IoT Hub on Azure",
        "identity": "created|409",
        "connect": r"before: Disconnected\s+after:  Connected",
    },
    "01": {
        "trace-report": "no wire trace on Azure",
        "desire": "a little later: 1200 1200",
        "etag": "412 Precondition Failed",
        "invoke": "True. Answer 200 {'Response': 'Rebooting'}",
        "time-out": r"\*\*504\*\*",
        "offline": "404 404103",
        "online": "500 500",
    },
    "02": {
        "follow": r"\*\*completed\*\*",
        "watch": r"\*\*completed\*\* · download 100 %",
        "range": "206 bytes 0-99/",
        "watch-image": r"'active': 'b', 'a': '1.0.0', 'b': '2.0.0'",
        "watch-bad": "selfTestFailed",
        "watch-foreign": "badSignature",
        "resume": "'action': 'resumed'",
    },
    "03": {
        "set-up": "this is an IoT Hub on Azure",
        "by-hand": "200 {'Response': 'Firmware update started'}",
        "throttle": "skipped: only the local hub",
        "lost-answer": r"skipped: .*\*\*completed\*\*",
        "busy": r"\*\*UpdateRejected\*\*",
        "signature": "badSignature",
        "rollback": "selfTestFailed",
        "power-back": "'action': '(resumed|confirmed)'",
    },
    "04": {
        "fleet": "10 online",
        "profile": "'createdBy': 'fwupdate-kit'",
        "wake": r"(\d+) of \1 run 2\.0\.0 · job \*\*completed",
        "metrics": r"'targetedCount': (\d+), 'appliedCount': \1",
        "catch-up": r"(\d+) of \1 are current",
        "wave": "rolledback",
        "bad": "stopped after wave 1: 1 of 1 updates failed",
        "good": r"completed\. (\d+) of \1 devices run",
    },
    "05": {
        "run-here": r"\*\*completed\*\* · answered in",
        "price": "not measured",
        "policies": "skipped",
        "switch": "an IoT Hub on Azure",
        "publish": "permits",
        "list-mine": "05-azure-iot-hub-thermostat",
        "clean-up": "05-azure-iot-hub-thermostat",
    },
}
"""What cells must tell, by the notebook's number: a pattern, over lines."""

pytestmark = pytest.mark.timeout(2400 if is_real() else 180)


@pytest.fixture
def mode(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureMode]:
    """Return the hub of one notebook; the environment tells this process and its kernel of it."""
    port = HTTPS_PORT if notebook.stem[:2] in ON_443 else None
    if port and not is_real() and not may_listen(port):
        missing_tool(f"this user may not listen on port {port}")
    monkeypatch.setenv(
        "FWUPDATE_DEVICE_DIR", str(tmp_path / "devices")
    )  # and of runs that are kept
    with azure_mode(tmp_path, "--configuration-seconds", "1", port=port) as mode:
        for name, value in mode.environment.items():
            monkeypatch.setenv(name, value)
        yield mode
    background.stop(StateDir(tmp_path / "unused"))  # notebook 00 looks at the local hub, too


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_cell_ends_well_and_the_hub_is_left_as_it_was(notebook: Path, mode: AzureMode) -> None:
    number = notebook.stem[:2]
    if number in PUBLISHING and not mode.can_publish:
        pytest.skip(f"{CONTAINER} is not set, so there is no place for images")
    with Hub(kind="azure", connection_string=mode.environment[STRING]) as hub:
        before = ids_on(hub)
        with kernel_for(load(notebook, PACE)) as client:
            for cell_id in code_ids(client.nb):
                run_solved(client, cell_id)
            assert run_code(client, ASK).startswith("azure azure.iot.hub")
            check_told(client.nb, number)
        assert ids_on(hub) == before
        assert not hub.kit_devices()
    check_no_errors(client.nb)
    check_no_key(client.nb, secrets_of(mode))


def run_solved(client: NotebookClient, cell_id: str) -> None:
    """Run a cell, an exercise with its solution; a check must find it right."""
    exercise = cell_id.partition("-")[2]
    if cell_id.startswith("exercise-") and exercise not in UNSOLVED:
        put_solution(client.nb, exercise)
    cell = run(client, cell_id)
    if cell_id.startswith("check-"):
        wanted = "not attempted" if exercise in UNSOLVED else "correct"
        assert outcome_of(cell) == wanted, (cell_id, text_of(cell))


def check_told(notebook: NotebookNode, number: str) -> None:
    cell = {cell.id: cell for cell in notebook.cells}
    for cell_id, pattern in MUST_SHOW[number].items():
        told = text_of(cell[cell_id])
        assert re.search(pattern, told, re.DOTALL), (cell_id, told)


def ids_on(hub: Hub) -> set[str]:
    return {device.device_id for device in hub.registry.get_devices()}


def secrets_of(mode: AzureMode) -> list[str]:
    """Return what no output may hold: the service's key, and the container's signature."""
    return [
        value.partition(mark)[2]
        for name, mark in ((STRING, "SharedAccessKey="), (CONTAINER, "sig="))
        if (value := mode.environment.get(name))
    ]
