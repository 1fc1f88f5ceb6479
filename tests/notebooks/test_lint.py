"""What every committed notebook keeps to: no outputs, short cells, a frame, no secrets."""

from __future__ import annotations

import ast
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers.exercises import known_ids

Cell = dict[str, Any]
FOLDER = Path(__file__).parents[2] / "notebooks"
LAYOUT = FOLDER.parent / "jupyter" / "workspace.json"
MAKEFILE = FOLDER.parent / "Makefile"
OPENED = ".ipynb_checkpoints"  # JupyterLab keeps copies there
NOTEBOOKS = sorted(path for path in FOLDER.rglob("*.ipynb") if OPENED not in path.parts)
SOLUTIONS = FOLDER / "solutions"
EXERCISE_CELL = r"exercise-\d\d-[a-z]"
SECRET = re.compile(r"SharedAccessKey=[A-Za-z0-9+/]{16,}|sig=[A-Za-z0-9%+/]{16,}")


def cells(notebook: Path, kind: str | None = None) -> list[Cell]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def test_there_are_notebooks_to_check() -> None:
    assert NOTEBOOKS


every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_no_output_and_no_execution_count_is_committed(notebook: Path) -> None:
    for cell in cells(notebook, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None, source(cell)


@every_notebook
def test_the_kernel_is_the_one_that_every_machine_has(notebook: Path) -> None:
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert set(metadata["language_info"]) == {"name"}, "no version of somebody's Python"


@every_notebook
def test_cell_ids_are_words_and_unique(notebook: Path) -> None:
    ids = [cell["id"] for cell in cells(notebook)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", one) for one in ids)


@every_notebook
def test_cells_are_short(notebook: Path) -> None:
    for cell in cells(notebook, "code"):
        assert len([line for line in source(cell).splitlines() if line.strip()]) <= 20, source(cell)
    for cell in cells(notebook, "markdown"):
        assert len(source(cell).split()) <= 150, source(cell)


@every_notebook
def test_prose_stands_before_every_code_cell(notebook: Path) -> None:
    kinds = [cell["cell_type"] for cell in cells(notebook)]
    assert ("code", "code") not in pairwise(kinds)


@every_notebook
def test_the_frame_is_there(notebook: Path) -> None:
    text = "\n".join(source(cell) for cell in cells(notebook, "markdown"))
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    for part in ("You will make", "You will be able to", "You need", "Time"):
        assert f"**{part}**" in text
    for part in ("Key points", "What changed on your device and hub", "Clean up", "What next"):
        assert f"## {part}" in text


@every_notebook
def test_the_running_clock_adds_up(notebook: Path) -> None:
    text = "\n".join(source(cell) for cell in cells(notebook, "markdown"))
    steps = re.findall(r"^## Step (\d+) · .+ · (\d+) min · to here (\d+) min$", text, re.MULTILINE)
    clock = 0
    for number, (step, minutes, to_here) in enumerate(steps, start=1):
        clock += int(minutes)
        assert (int(step), int(to_here)) == (number, clock)
    assert f"**Time** {clock} minutes" in text


@every_notebook
def test_no_shell_mark_no_star_import_and_no_input(notebook: Path) -> None:
    for cell in cells(notebook, "code"):
        tree = ast.parse(source(cell))  # fails on ! and %
        calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call)
                 and isinstance(node.func, ast.Name)}  # fmt: skip
        stars = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names)
        ]
        assert not stars and "input" not in calls


@every_notebook
def test_the_set_up_cell_names_the_notebook_whose_steps_it_explains(notebook: Path) -> None:
    assert f'name_steps("{notebook.name}")' in source(cells(notebook, "code")[0])


@every_notebook
def test_the_exercise_minutes_add_up(notebook: Path) -> None:
    text = "\n".join(source(cell) for cell in cells(notebook, "markdown"))
    minutes = re.findall(r"^### Exercise \d\d-[a-z] · (\d+) min · .+$", text, re.MULTILINE)
    assert 2 <= len(minutes) <= 3
    number = {2: "two", 3: "three"}[len(minutes)]
    told = f"and {sum(map(int, minutes))} more for {number} exercises"
    assert told in text


@every_notebook
def test_there_is_something_for_whoever_is_done_early(notebook: Path) -> None:
    texts = [source(cell) for cell in cells(notebook, "markdown")]
    assert sum(len(re.findall(r"\bIf you are done early", text)) for text in texts) == 1


@every_notebook
def test_an_exercise_has_a_goal_two_folded_hints_a_stub_a_check_and_a_solution(
    notebook: Path,
) -> None:
    cell = {cell["id"]: source(cell) for cell in cells(notebook)}
    found = [name.removeprefix("exercise-") for name in cell if re.fullmatch(EXERCISE_CELL, name)]
    assert found == exercises_of(notebook)
    for exercise in found:
        goal, stub = cell[f"exercise-{exercise}-text"], cell[f"exercise-{exercise}"]
        assert goal.startswith(f"### Exercise {exercise} · ")
        assert re.findall(r"<summary>(.+?)</summary>", goal) == ["Hint 1", "Hint 2"]
        assert "..." in stub and "# TODO: " in stub
        assert cell[f"check-{exercise}"] == f'check("{exercise}")'
        solution = (SOLUTIONS / f"{exercise}.py").read_text(encoding="utf-8")
        more = len(solution.splitlines()) - len(stub.splitlines())
        assert "TODO" not in solution and more <= 5


def test_no_solution_and_no_check_is_left_without_a_notebook() -> None:
    wanted = [exercise for notebook in NOTEBOOKS for exercise in exercises_of(notebook)]
    assert wanted == known_ids() == sorted(path.stem for path in SOLUTIONS.glob("*.py"))


def exercises_of(notebook: Path) -> list[str]:
    return [one for one in known_ids() if one.startswith(notebook.stem[:2])]


@every_notebook
def test_a_link_leads_on_to_the_next_notebook(notebook: Path) -> None:
    later = [other for other in NOTEBOOKS if other.name > notebook.name]
    last = source(cells(notebook)[-1])
    assert not later or (f"[Continue to {later[0].stem[:2]} · " in last and later[0].name in last)


@every_notebook
def test_pictures_have_alt_text_and_links_lead_somewhere(notebook: Path) -> None:
    for cell in cells(notebook, "markdown"):
        for bang, alt, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", source(cell)):
            assert not bang or len(alt.split()) >= 3, f"the picture {target} needs alt text"
            if not target.startswith(("http", "#")):
                assert (notebook.parent / target).exists(), target


@every_notebook
def test_no_secret_is_in_the_file(notebook: Path) -> None:
    assert not SECRET.search(notebook.read_text(encoding="utf-8"))


@every_notebook
def test_the_instructors_guide_has_a_page_for_it(notebook: Path) -> None:
    guide = (FOLDER / "INSTRUCTOR.md").read_text(encoding="utf-8")
    page = re.search(rf"^## {notebook.stem}\n(.+?)(?=^## |\Z)", guide, re.MULTILINE | re.DOTALL)
    assert page, f"INSTRUCTOR.md has no section {notebook.stem}"
    for part in ("Minutes", "Ask", "Pitfalls", "Answers", "Reset one learner"):
        assert f"**{part}" in page.group(1)


def test_the_saved_layout_shows_the_live_panel_of_the_notebook_that_make_lab_opens() -> None:
    first = re.search(r"^FIRST_NOTEBOOK \?= (.+)$", MAKEFILE.read_text("utf-8"), re.MULTILINE)
    assert first
    tags = [cell["metadata"].get("tags", []) for cell in cells(FOLDER / first[1])]
    (panel,) = [index for index, found in enumerate(tags) if "live-panel" in found]
    assert cells(FOLDER / first[1])[panel]["cell_type"] == "code"
    name, view = f"notebook:{first[1]}", f"cloned-outputs:{first[1]}:{panel}"
    layout = json.loads(LAYOUT.read_text("utf-8"))["data"]
    assert layout.keys() == {"layout-restorer:data", name, view}, (
        f"in {LAYOUT.name}, the number of the live panel's cell must be {panel}, everywhere"
    )
    assert layout[name]["data"]["path"] == layout[view]["data"]["path"] == first[1]
    assert layout[view]["data"]["index"] == panel
    areas = layout["layout-restorer:data"]["main"]["dock"]["children"]
    assert [area["widgets"] for area in areas] == [[name], [view]], "left and right"
