"""Every notebook in real kernels: unsolved, solved, twice, too early, killed, beside others."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from fwupdate_helpers import connect_hub
from fwupdate_helpers.notebook import steps_of_names
from tests.notebook_runs import (
    NOTEBOOKS,
    check_no_errors,
    code_ids,
    index_of,
    kernel_for,
    load,
    outcome_of,
    put_solution,
    restart,
    run,
    run_code,
    text_of,
)
from tests.notebook_stories import STORIES, check_no_secret
from tests.wrong_answers import WRONG_ANSWERS

PACE = 0.3
LOOK_FIRST = {
    ("02_firmware_update", "invoke"): "follow",
    ("03_when_updates_fail", "lost-answer"): "look",
    ("03_when_updates_fail", "power-cut"): "power-back",
}
"""Cells whose second run would meet what the first has begun, and the cell that waits for it."""
TRUE_AGAIN = {("01_twins_and_direct_methods", "time-out"): "False"}
"""What the second run of a cell must tell as the first one did."""
AFTER_THE_END = {
    "00_start_here": ("read-identity", 3),
    "01_twins_and_direct_methods": ("read-twin", 2),
    "02_firmware_update": ("read-twin", 2),
    "03_when_updates_fail": ("good", 2),
    "04_fleet_rollout": ("profile", 2),
}
"""A cell that is run after the clean-up, and the step that it must ask for."""
SLOW = {"03_when_updates_fail", "04_fleet_rollout"}
SLOW_CELLS = {"time-out", "after-time-out"}
"""What waits for time-outs of IoT Hub, which are 5 s or more, is not run a third time."""
KEEP = "_at_set_up = set(globals())"
FORGET = """
for _name in [name for name in globals() if name not in _at_set_up and name[0] != '_']:
    del globals()[_name]
"""
WHERE = """
import json
_own = hub.device_id("")
_ids = [item.device_id for item in hub.registry.get_devices()]
print(json.dumps({"own": _own, "kind": hub.kind, "host": hub.host_name, "ids": _ids}))
"""

every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
pytestmark = pytest.mark.timeout(180)


def test_there_are_notebooks_to_run() -> None:
    assert NOTEBOOKS


@every_notebook
def test_unsolved_each_cell_runs_twice_in_a_row_then_all_of_them_again_and_nothing_is_left(
    notebook: Path, shared_hub_folder: Path
) -> None:
    before = images_in(shared_hub_folder)  # of kernels that other tests have killed
    with kernel_for(load(notebook, PACE)) as client:
        for cell_id in code_ids(client.nb):
            run_twice(client, cell_id, notebook.stem)
        check_no_errors(client.nb)
        check_no_secret(client.nb, shared_hub_folder)
        last, step = AFTER_THE_END[notebook.stem]
        assert step_asked_for(client, last) == step
        if notebook.stem not in SLOW:
            for cell_id in code_ids(client.nb):
                if cell_id not in SLOW_CELLS:
                    run_unsolved(client, cell_id)
            check_all_of(client.nb, shared_hub_folder)
    # Also what a notebook keeps until its kernel ends.
    with connect_hub() as hub:
        ids = [device.device_id for device in hub.registry.get_devices()]
    assert not [one for one in ids if notebook.stem.replace("_", "-") in one]
    assert images_in(shared_hub_folder) <= before


def images_in(state_dir: Path) -> set[Path]:
    return {file for file in (state_dir / "images").rglob("*") if file.is_file()}


def check_all_of(notebook: NotebookNode, state_dir: Path) -> None:
    """Check a notebook of which all cells have run: what it told, and that it told no secret."""
    check_no_errors(notebook)
    check_no_secret(notebook, state_dir)
    STORIES.get(Path(notebook.metadata["file"]).stem[:2], check_no_errors)(notebook)


def run_twice(client: NotebookClient, cell_id: str, stem: str) -> None:
    run_unsolved(client, cell_id)
    if first := LOOK_FIRST.get((stem, cell_id)):
        run(client, first)
    run_unsolved(client, cell_id)
    told = text_of(client.nb.cells[index_of(client.nb, cell_id)])
    assert TRUE_AGAIN.get((stem, cell_id), "") in told, (cell_id, told)


def run_unsolved(client: NotebookClient, cell_id: str) -> None:
    """Run a cell; the check of an exercise must say that nobody has tried."""
    cell = run(client, cell_id)
    if cell_id.startswith("check-"):
        assert outcome_of(cell) == "not attempted", (cell_id, text_of(cell))


@every_notebook
def test_solved_it_runs_after_a_kernel_that_was_killed_and_each_check_knows_right_from_wrong(
    notebook: Path, shared_hub_folder: Path
) -> None:
    with kernel_for(load(notebook, PACE)) as client:
        for cell_id in until_the_middle(client.nb):
            run(client, cell_id)
        restart(client)
        for cell_id in code_ids(client.nb):
            if cell_id.startswith("exercise-"):
                try_wrong_answers(client, cell_id.removeprefix("exercise-"))
                put_solution(client.nb, cell_id.removeprefix("exercise-"))
            cell = run(client, cell_id)
            if cell_id.startswith("check-"):
                assert outcome_of(cell) == "correct", (cell_id, text_of(cell))
        check_all_of(client.nb, shared_hub_folder)


def until_the_middle(notebook: NotebookNode) -> list[str]:
    """Return the cells before the one that waits for an update, or else half of them."""
    ids = code_ids(notebook)
    waiting = [c.id for c in notebook.cells if "waits-for-update" in c.metadata.get("tags", [])]
    return ids[: ids.index(waiting[0]) if waiting else len(ids) // 2]


def try_wrong_answers(client: NotebookClient, exercise: str) -> None:
    """Put typical mistakes into an exercise's cell: the check tells each by what it saw."""
    assert len(WRONG_ANSWERS[exercise]) >= 2
    for wrong in WRONG_ANSWERS[exercise]:
        client.nb.cells[index_of(client.nb, f"exercise-{exercise}")].source = wrong.cell
        run(client, f"exercise-{exercise}")
        card = run(client, f"check-{exercise}")
        assert outcome_of(card) == "incorrect", (wrong, text_of(card))
        assert wrong.words in text_of(card), text_of(card)


@pytest.fixture
def after_set_up(notebook: Path) -> Iterator[NotebookClient]:
    """Return a kernel in which the set-up cell has run, and nothing else."""
    with kernel_for(load(notebook, PACE)) as client:
        run(client, "set-up")
        run_code(client, KEEP)
        yield client


@every_notebook
def test_a_cell_run_too_early_works_or_says_which_step_comes_first(
    notebook: Path, after_set_up: NotebookClient
) -> None:
    steps = set(steps_of_names(notebook).values())
    told = {}
    for cell_id in code_ids(after_set_up.nb)[1:]:
        if step := step_asked_for(after_set_up, cell_id):
            told[cell_id] = step
        run_code(after_set_up, FORGET)
    assert len(told) > 2 and set(told.values()) <= steps, told
    for cell_id, step in TOO_EARLY.get(notebook.stem, {}).items():
        assert told[cell_id] == step, cell_id
    OUT_OF_ORDER.get(notebook.stem, run_code)(after_set_up, "")


def step_asked_for(client: NotebookClient, cell_id: str) -> int | None:
    """Run a cell; return the step that it asks for, in a sentence, or None where it works."""
    try:
        run(client, cell_id)
    except CellExecutionError as error:
        assert "Traceback" not in error.traceback
        return first_step_of(client, cell_id)
    return first_step_of(client, cell_id) if cell_id.startswith("check-") else None


def steps_of_01_out_of_order(client: NotebookClient, _: str) -> None:
    """A method before the pump has one; and a plug that is pulled while the pump reboots."""
    for cell_id in ("identity", "connect"):
        run(client, cell_id)
    for cell_id in ("no-such-method", "invoke"):
        assert step_asked_for(client, cell_id) == 6
    run_code(client, "reboot_seconds = 1.0")
    for cell_id in ("on-desired", "reboot", "on-method", "invoke", "offline"):
        run(client, cell_id)
    rest = "[t.join() for t in threading.enumerate() if t.name == 'pump-reboot']"
    assert run_code(client, f"{rest}; print(client.connected)").strip() == "False"
    run(client, "clean-up")


OUT_OF_ORDER = {"01_twins_and_direct_methods": steps_of_01_out_of_order}
"""What else is to be run in another order than it stands."""


def first_step_of(client: NotebookClient, cell_id: str) -> int:
    """Return the step that a cell asks for."""
    shown = text_of(client.nb.cells[index_of(client.nb, cell_id)])
    found = re.search(r"Run step (\d+) first", shown)
    assert found, (cell_id, shown)
    return int(found[1])


TOO_EARLY = {
    "02_firmware_update": {
        "connect": 2,
        "read-twin": 2,
        "on-method": 4,
        "invoke": 2,
        "check-02-b": 2,
        "watch": 9,
        "check-02-c": 9,
        "build": 11,
        "board": 12,
        "invoke-image": 14,
        "watch-bad": 14,
        "resume": 13,
    }
}
"""Some steps that must be named, for notebooks in which steps can be left out."""


def test_notebooks_that_are_open_at_once_share_one_hub_and_no_device() -> None:
    first, second = NOTEBOOKS[0], NOTEBOOKS[1 % len(NOTEBOOKS)]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(kernel_for(load(notebook, PACE), opened_as=name, user=user))
            for notebook, name, user in (
                (first, first.name, "ada"),
                (second, f"my {second.name}", "ada"),
                (first, f"copy of {first.name}", "ada"),
                (first, first.name, "bo"),
            )
        ]
        at_once([lambda client=client: run_most(client) for client in clients])
        seen = [json.loads(run_code(client, WHERE)) for client in clients]
        assert {(one["kind"], one["host"]) for one in seen} == {("local", seen[0]["host"])}
        owned = devices_of_each(seen)
        run(clients[0], "clean-up")
        connected = [run_code(client, "print(client.connected)").strip() for client in clients[1:]]
        assert connected == ["True"] * 3
        with connect_hub() as hub:
            left = {item.device_id for item in hub.registry.get_devices()}
        assert left >= set().union(*owned[1:]), "cleaning up one took a device of another"
        at_once([lambda client=client: run(client, "clean-up") for client in clients[1:]])


def run_most(client: NotebookClient) -> None:
    """Run all cells up to the clean-up."""
    ids = code_ids(client.nb)
    for cell_id in ids[: ids.index("clean-up")]:
        run_unsolved(client, cell_id)


def at_once(work: list[Callable[[], Any]]) -> None:
    """Do several things at the same time; raise the first problem."""
    problems: list[BaseException] = []

    def guarded(one: Callable[[], Any]) -> None:
        try:
            one()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def devices_of_each(seen: list[dict[str, Any]]) -> list[set[str]]:
    """Return the devices of each kernel; each device is the device of at most one."""
    owned = [
        {device_id for device_id in one["ids"] if device_id.startswith(f"{one['own']}-")}
        for one in seen
    ]
    assert all(owned), seen
    assert sum(map(len, owned)) == len(set().union(*owned)), "two kernels share a device"
    return owned
