"""Which step of a notebook makes a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fwupdate_helpers.notebook import steps_of_names


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    cells = [
        ("code", "before = 1"),
        ("markdown", "## Step 1 · Set up"),
        ("code", "import json as j\nfrom time import sleep\nhub = 1"),
        ("markdown", "Words.\n\n## Step 2 · Go on"),
        ("code", "def report(patch):\n    inner = patch\n\n\nfirst, second = 1, 2\nhub = 3"),
        ("code", "this is no Python"),
        ("code", "class Board:\n    size = 1\n\n\nfor number in range(3):\n    last = number"),
    ]
    file = tmp_path / "00_test.ipynb"
    lines = [{"cell_type": kind, "source": text.splitlines(True)} for kind, text in cells]
    file.write_text(json.dumps({"cells": lines}), encoding="utf-8")
    return file


def test_each_name_belongs_to_the_step_that_first_defines_it(notebook: Path) -> None:
    steps = steps_of_names(notebook)
    assert {name for name, step in steps.items() if step == 1} == {"j", "sleep", "hub"}
    made_in_step_2 = {"report", "first", "second", "Board", "number", "last"}
    assert {name for name, step in steps.items() if step == 2} == made_in_step_2


def test_names_inside_a_function_or_before_the_first_step_belong_to_none(notebook: Path) -> None:
    assert steps_of_names(notebook).keys().isdisjoint({"inner", "size", "before", "patch"})
