"""Every notebook in a real kernel: unsolved, solved, twice, too early, beside another one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from fwupdate_helpers import connect_hub
from fwupdate_helpers.exercises import known_ids
from tests.notebook_runs import (
    NOTEBOOKS,
    SOLUTIONS,
    check_no_errors,
    code_ids,
    index_of,
    kernel_for,
    load,
    outcome_of,
    run,
    run_code,
    text_of,
)
from tests.wrong_answers import WRONG_ANSWERS

PACE = 0.4
FORGET = (
    "for _name in [name for name in globals() if name not in _at_set_up and name[0] != '_']:\n"
    "    del globals()[_name]"
)
every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
with_exercises = every_notebook

pytestmark = pytest.mark.timeout(180)


def exercises_of(notebook: Path) -> list[str]:
    return [one for one in known_ids() if one.startswith(notebook.stem[:2])]


def run_all(client: NotebookClient) -> NotebookNode:
    for cell_id in code_ids(client.nb):
        run(client, cell_id)
    check_no_errors(client.nb)
    return client.nb


def outcomes(notebook: NotebookNode) -> set[str]:
    return {outcome_of(cell) for cell in notebook.cells if cell.id.startswith("check-")
            and cell.cell_type == "code"}  # fmt: skip


@every_notebook
def test_unsolved_it_runs_to_the_end_and_no_check_passes(notebook: Path) -> None:
    with kernel_for(load(notebook, PACE)) as client:
        assert outcomes(run_all(client)) == {"not attempted"}


@every_notebook
def test_each_check_knows_the_stub_typical_mistakes_and_the_solution(notebook: Path) -> None:
    with kernel_for(load(notebook, PACE)) as client:
        for cell_id in code_ids(client.nb):
            kind, _, exercise = cell_id.partition("-")
            if kind == "check":
                continue
            run(client, cell_id)
            if kind == "exercise":
                assert outcomes_of_answers(client, exercise) == [
                    "not attempted", "incorrect", "incorrect", "correct"
                ], exercise  # fmt: skip
        check_no_errors(client.nb)


def outcomes_of_answers(client: NotebookClient, exercise: str) -> list[str]:
    """Check the stub, two typical mistakes and the solution, one after the other."""
    found = [outcome_of(run(client, f"check-{exercise}"))]
    answers = [*WRONG_ANSWERS[exercise], (SOLUTIONS / f"{exercise}.py").read_text(encoding="utf-8")]
    for answer in answers:
        client.nb.cells[index_of(client.nb, f"exercise-{exercise}")].source = answer
        run(client, f"exercise-{exercise}")
        card = run(client, f"check-{exercise}")
        found.append(outcome_of(card))
    return found


@every_notebook
def test_solved_it_runs_twice_in_one_kernel_and_every_check_passes(notebook: Path) -> None:
    loaded = load(notebook, PACE)
    for exercise in exercises_of(notebook):
        solution = (SOLUTIONS / f"{exercise}.py").read_text(encoding="utf-8")
        loaded.cells[index_of(loaded, f"exercise-{exercise}")].source = solution
    with kernel_for(loaded) as client:
        for _ in range(2):
            assert outcomes(run_all(client)) == {"correct"}


@every_notebook
def test_every_cell_runs_twice_in_a_row(notebook: Path) -> None:
    with kernel_for(load(notebook, PACE)) as client:
        for cell_id in code_ids(client.nb):
            run(client, cell_id)
            if (notebook.stem[:2], cell_id) == ("02", "invoke"):
                run(client, "follow")  # the second run would meet the update of the first one
            run(client, cell_id)
        check_no_errors(client.nb)


@pytest.fixture
def after_set_up(notebook: Path) -> Iterator[NotebookClient]:
    """Return a kernel in which the set-up cell has run, and nothing else."""
    with kernel_for(load(notebook, PACE)) as client:
        run(client, "set-up")
        run_code(client, "_at_set_up = set(globals())")
        yield client


@every_notebook
def test_a_cell_run_too_early_works_or_says_which_step_comes_first(
    notebook: Path, after_set_up: NotebookClient
) -> None:
    told = 0
    for cell_id in code_ids(after_set_up.nb)[1:]:
        try:
            run(after_set_up, cell_id)
        except CellExecutionError:
            shown = text_of(after_set_up.nb.cells[index_of(after_set_up.nb, cell_id)])
            assert "first." in shown and "Run step" in shown, (cell_id, shown)
            told += 1
        run_code(after_set_up, FORGET)
    assert told > 2


def test_two_notebooks_at_once_share_one_hub_and_leave_each_others_devices_alone() -> None:
    problems: list[Exception] = []

    def work(notebook: Path) -> None:
        try:
            with kernel_for(load(notebook, PACE)) as client:
                run_all(client)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(notebook,)) for notebook in NOTEBOOKS[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert problems == []
    with connect_hub() as hub:
        assert hub.kind == "local"
