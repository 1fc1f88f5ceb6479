"""What a notebook says when its cells are run out of order, and what it asks in a masked field."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwupdate_helpers.errors import FirmwareUpdateError

if TYPE_CHECKING:
    from fwupdate_helpers.widgets.secret_field import SecretField

_STEP = re.compile(r"^## Step (\d+)", re.MULTILINE)
_INTERRUPTED = "Interrupted. What the hub and the devices have begun goes on without this cell."


def name_steps(notebook: str | Path) -> None:
    """Answer a missing name with the step that makes it, in place of a bare ``NameError``.

    An error of this kit is shown as its sentence, which says what happened and what to do, without
    the traceback through the package; so is *Interrupt*.

    The notebook's file is read when a name is missing. Where it is not found, because it was
    renamed or the kernel works in another folder, the bare ``NameError`` stays.

    Args:
        notebook: The file of the notebook that calls this; a kernel works in its folder.

    Example:
        >>> name_steps("02_firmware_update.ipynb")
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    file = Path(notebook).resolve()

    def explain(shell: Any, kind: Any, error: NameError, trace: Any, tb_offset: Any = None) -> None:
        steps = steps_of_names(file) if file.is_file() else {}
        if error.name not in steps:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
            return
        step = f"step {steps[error.name]}"
        sentence = f"This cell needs {error.name!r}, which {step} makes. Run {step} first."
        if steps[error.name] == _step_of_cell(file, shell.user_ns.get("In", [""])[-1]):
            sentence += " You are in it: run its cells in their order."
        shell._showtraceback(kind, NameError(sentence), [sentence])

    def show(
        shell: Any, kind: Any, error: BaseException, trace: Any, tb_offset: Any = None
    ) -> None:
        if isinstance(error, NameError):
            explain(shell, kind, error, trace, tb_offset)
        elif isinstance(error, KeyboardInterrupt):
            shell._showtraceback(kind, error, [_INTERRUPTED])
        else:
            shell._showtraceback(kind, error, [f"{kind.__name__}: {error}"])

    shell.set_custom_exc((NameError, KeyboardInterrupt, FirmwareUpdateError), show)


def ask_connection_string() -> SecretField:
    """Show a masked field for the service connection string of an IoT Hub on Azure.

    What is entered is set for this kernel alone, and is nowhere in the notebook. Call
    `connect_hub` again afterwards.

    Example:
        >>> ask_connection_string()  # doctest: +SKIP
    """
    from fwupdate_helpers.connection_string import read_service_string
    from fwupdate_helpers.settings import CONNECTION_STRING_VARIABLE
    from fwupdate_helpers.widgets.secret_field import SecretField

    return SecretField(
        CONNECTION_STRING_VARIABLE,
        label="Connection string:",
        check=read_service_string,
        next_step="Run the set-up cell again.",
    )


def ask_image_container() -> SecretField:
    """Show a masked field for the SAS URL of a container of Blob storage, where images go."""
    from fwupdate_helpers.firmware.publish import check_container_url
    from fwupdate_helpers.settings import IMAGE_CONTAINER_VARIABLE
    from fwupdate_helpers.widgets.secret_field import SecretField

    return SecretField(
        IMAGE_CONTAINER_VARIABLE,
        label="SAS URL of the container:",
        check=check_container_url,
        next_step="Images are published there from now on.",
    )


def steps_of_names(notebook: Path) -> dict[str, int]:
    """Return, for each name that a notebook's cells define, the number of the first step to do so.

    Names of the cells before the first step, and cells that are no Python, do not count.
    """
    steps: dict[str, int] = {}
    step = 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if heading := _STEP.search(source) if cell["cell_type"] == "markdown" else None:
            step = int(heading[1])
        if cell["cell_type"] == "code" and step:
            for name in _defined_names(source):
                steps.setdefault(name, step)
    return steps


def _step_of_cell(notebook: Path, source: str) -> int | None:
    """Return the step in which a cell with this source stands; None when there is none."""
    step = None
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if heading := _STEP.search(text) if cell["cell_type"] == "markdown" else None:
            step = int(heading[1])
        if cell["cell_type"] == "code" and text.strip() == source.strip():
            return step
    return None


def _defined_names(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a learner is in the middle of it
        return
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        else:
            names = (inner for inner in ast.walk(node) if isinstance(inner, ast.Name))
            yield from (name.id for name in names if isinstance(name.ctx, ast.Store))
