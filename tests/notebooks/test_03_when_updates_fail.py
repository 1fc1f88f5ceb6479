"""Notebook 03 on a hub that makes no faults, as one on Azure makes none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.notebook_runs import (
    FOLDER,
    check_no_errors,
    code_ids,
    kernel_for,
    load,
    outcome_of,
    put_solution,
    run,
    text_of,
)
from tests.support import HubProcess

NOTEBOOK = FOLDER / "03_when_updates_fail.ipynb"


@pytest.mark.parametrize("solved", [False, True], ids=["unsolved", "solved"])
def test_on_a_hub_that_makes_no_faults_the_cells_say_so_and_the_updates_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, solved: bool
) -> None:
    notebook = load(NOTEBOOK, 0.1)
    if solved:
        for exercise in ("03-a", "03-b", "03-c"):
            put_solution(notebook, exercise)
    monkeypatch.setenv("FWUPDATE_STATE_DIR", str(tmp_path / "hub"))
    with (
        HubProcess(tmp_path / "hub", "--faults", "off"),
        kernel_for(notebook) as client,
    ):
        for cell_id in code_ids(client.nb):
            run(client, cell_id)
    check_no_errors(notebook)
    cell = {cell.id: cell for cell in notebook.cells}
    assert "started without faults" in text_of(cell["set-up"])
    skipping = ("throttle", "lost-answer", "cut", "corrupt", "lost-acknowledgement")
    for cell_id in skipping:
        assert "skipped: only the local hub makes faults" in text_of(cell[cell_id]), cell_id
    for cell_id in ("good", "throttled", "resolved", "cut", "corrupt", "lost-acknowledgement"):
        assert "**completed**" in text_of(cell[cell_id]), cell_id
    for cell_id, code in (("signature", "badSignature"), ("rollback", "selfTestFailed")):
        assert code in text_of(cell[cell_id])
    assert "'resumed'" in text_of(cell["power-back"]), "the device's own faults happen anywhere"
    wanted = "correct" if solved else "not attempted"
    checks = [cell[f"check-03-{letter}"] for letter in "abc"]
    assert [outcome_of(check) for check in checks] == [wanted] * 3
