"""Notebook 05 on its way from the local hub to another, which it knows by nothing but a string."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nbclient import NotebookClient

from fwupdate_helpers import connect_hub
from fwupdate_helpers.localhub.tiers import TIERS
from tests.notebook_runs import (
    FOLDER,
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
from tests.notebook_stories import check_figure, check_no_secret
from tests.support import HubProcess

NOTEBOOK = FOLDER / "05_azure_iot_hub.ipynb"
PASTE = """
import os
os.environ.update(SSL_CERT_FILE={ca!r}, REQUESTS_CA_BUNDLE={ca!r})
_field = ask_connection_string()
_field.field.value = {string!r}
print(_field.text)
"""


USED = """
_told = hub.local_request("GET", "/$localhub/status").json()
print(_told["daily_messages"]["used"])
"""
CONNECTING = 2
"""Messages before the call: the device reads its twin, and reports that it stands by."""


def run_between(client: NotebookClient, first: str, last: str) -> None:
    """Run the cells from one to another, both of them too."""
    ids = code_ids(client.nb)
    for cell_id in ids[ids.index(first) : ids.index(last) + 1]:
        run(client, cell_id)


def test_from_the_local_hub_to_another_both_timelines_are_seen_and_foreign_devices_are_safe(
    tmp_path: Path, shared_hub_folder: Path
) -> None:
    notebook = load(NOTEBOOK, 0.2)
    put_solution(notebook, "05-b")
    with (
        HubProcess(tmp_path / "azure", "--trace", "off", "--faults", "off") as away,
        kernel_for(notebook) as client,
    ):
        run_between(client, "set-up", "ask")
        local_id = run_code(client, "print(device_id)").strip()
        registry, foreign = away.registry(), {"somebody-else", f"{local_id}-of-a-product"}
        for device_id in foreign:
            registry.create_device_with_sas(device_id, None, None, "enabled")
        ca, string = away.ready["ca_file"], away.ready["connection_string"]
        told = run_code(client, PASTE.format(ca=ca, string=string))
        assert "Set for this kernel" in told and "SharedAccessKey=" not in told
        run_between(client, "switch", "list-mine")
        with connect_hub() as hub:
            left = {device.device_id for device in hub.registry.get_devices()}
        assert local_id not in left, "the hub that was left has kept the identity"
        assert {device.device_id for device in registry.get_devices()} == {*foreign, local_id}
        run(client, "clean-up")
        assert {device.device_id for device in registry.get_devices()} == foreign
    cell = {cell.id: cell for cell in notebook.cells}
    assert "an IoT Hub on Azure" in text_of(cell["switch"])
    answered = r"^(.+): the direct method was answered after \d+ ms"
    assert re.findall(answered, text_of(cell["compare"]), re.M) == ["local hub", "Azure"]
    check_figure(cell["compare"])
    assert "skipped: A hub on Azure keeps no images" in text_of(cell["publish"])
    assert local_id in text_of(cell["list-mine"]) and local_id in text_of(cell["clean-up"])
    check_no_errors(notebook)
    check_no_secret(notebook, shared_hub_folder)
    check_no_secret(notebook, tmp_path / "azure")


def test_a_kernel_that_begins_on_azure_says_what_it_cannot_measure(tmp_path: Path) -> None:
    notebook = load(NOTEBOOK, 0.2)
    for exercise in ("05-a", "05-b"):
        put_solution(notebook, exercise)
    with (
        HubProcess(tmp_path / "azure", "--trace", "off") as away,
        kernel_for(notebook) as client,
    ):
        environment = {
            "FWUPDATE_STATE_DIR": str(tmp_path / "no-local-hub"),
            "FWUPDATE_IOTHUB_CONNECTION_STRING": away.ready["connection_string"],
            "SSL_CERT_FILE": away.ready["ca_file"],
            "REQUESTS_CA_BUNDLE": away.ready["ca_file"],
        }
        run_code(client, f"import os; os.environ.update({environment!r})")
        run_between(client, "set-up", "check-05-b")
        run(client, "compare")
        run(client, "clean-up")
    cell = {cell.id: cell for cell in notebook.cells}
    assert "not measured: run steps 1 to 3 on the local hub" in text_of(cell["price"])
    assert "messages an update" not in text_of(cell["calculator"])
    assert "skipped: this key cannot ask" in text_of(cell["policies"])
    checks = [outcome_of(cell[f"check-05-{letter}"]) for letter in "ab"]
    assert checks == ["correct", "correct"]
    assert not (tmp_path / "no-local-hub" / "hub.db").exists(), "no local hub was started"
    check_no_errors(notebook)


def test_what_the_notebook_counts_is_what_a_hub_of_the_free_tier_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FWUPDATE_STATE_DIR", str(tmp_path / "hub"))
    notebook = load(NOTEBOOK, 0.2)
    with HubProcess(tmp_path / "hub", "--tier", "F1"), kernel_for(notebook) as client:
        run_between(client, "set-up", "one-update")
        before = int(run_code(client, USED))
        run(client, "run-here")
        used = int(run_code(client, USED)) - before
        run_between(client, "charged", "price")
        told = run_code(client, "print(sum(n for name, n in price.items() if name.endswith('F1')))")
    assert used == int(told) + CONNECTING


def test_the_numbers_of_the_tiers_are_those_of_the_local_hub() -> None:
    source = next(cell.source for cell in load(NOTEBOOK).cells if cell.id == "charged")
    found = re.search(r"^TIERS = (\{.+\})", source, re.M)
    assert found
    wanted = {name: (tier.daily_messages, tier.meter_bytes) for name, tier in TIERS.items()}
    assert eval(found[1]) == wanted
