"""Notebooks in real kernels: load one, run its cells, read what they show."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = FOLDER / "solutions"
OUTCOME = re.compile(r"[○▲●–] (not attempted|incorrect|correct|not checkable)")
_PACE = re.compile(r"^(\w+_seconds) = [0-9.]+", re.MULTILINE)


def load(notebook: Path, pace: float | None = 0.4) -> NotebookNode:
    """Read a notebook, with another value for the seconds in its parameters cell, if it has any."""
    loaded = nbformat.read(notebook, as_version=4)
    loaded.metadata["file"] = str(notebook)
    (parameters,) = (c for c in loaded.cells if "parameters" in c.metadata.get("tags", []))
    if pace is not None:
        has_any = "_seconds = " in parameters.source
        parameters.source, count = _PACE.subn(rf"\1 = {pace}", parameters.source)
        assert bool(count) == has_any
    return loaded


def client_for(notebook: NotebookNode) -> NotebookClient:
    """Return a client that has no kernel yet; the kernel will work in the notebooks' folder."""
    resources = {"metadata": {"path": str(FOLDER)}}
    return NotebookClient(notebook, timeout=90, kernel_name="python3", resources=resources)


def start_kernel(
    notebook: NotebookNode, *, opened_as: str | None = None, user: str | None = None
) -> NotebookClient:
    """Give a notebook a kernel of its own, which knows the notebook's name as in JupyterLab.

    Args:
        opened_as: The name of the file, where it is another one.
        user: The user of a JupyterHub, where it is one.
    """
    env = {**os.environ, "JPY_SESSION_NAME": opened_as or notebook.metadata["file"]}
    client = client_for(notebook)
    client.create_kernel_manager()
    client.start_new_kernel(env=env | ({"JUPYTERHUB_USER": user} if user else {}))
    client.start_new_kernel_client()
    return client


@contextmanager
def kernel_for(notebook: NotebookNode, **where: str | None) -> Iterator[NotebookClient]:
    """Give a notebook a kernel for a while; see `start_kernel`."""
    client = start_kernel(notebook, **where)
    try:
        yield client
    finally:
        client._cleanup_kernel()


def restart(client: NotebookClient) -> None:
    """Kill the kernel in the middle of whatever it does, and start it again."""
    assert client.km and client.kc
    run_sync(client.km.restart_kernel)(now=True)
    run_sync(client.kc.wait_for_ready)(timeout=60)  # type: ignore[arg-type]


def put_solution(notebook: NotebookNode, exercise: str) -> None:
    """Put the solution of an exercise into its cell."""
    solution = (SOLUTIONS / f"{exercise}.py").read_text(encoding="utf-8")
    notebook.cells[index_of(notebook, f"exercise-{exercise}")].source = solution


def index_of(notebook: NotebookNode, cell_id: str) -> int:
    """Return the place of a cell."""
    return next(i for i, cell in enumerate(notebook.cells) if cell.id == cell_id)


def run(client: NotebookClient, cell_id: str) -> NotebookNode:
    """Run one cell by its id; return it with its outputs."""
    index = index_of(client.nb, cell_id)
    cell: NotebookNode = client.execute_cell(client.nb.cells[index], index)
    return cell


def run_code(client: NotebookClient, code: str) -> str:
    """Run code that is in no cell of the notebook; return what it printed."""
    cell = nbformat.v4.new_code_cell(code)
    client.nb.cells.append(cell)
    try:
        client.execute_cell(cell, len(client.nb.cells) - 1)
    finally:
        client.nb.cells.remove(cell)
    return text_of(cell)


def code_ids(notebook: NotebookNode) -> list[str]:
    """Return the ids of the code cells in their order."""
    return [cell.id for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell: NotebookNode) -> str:
    """Return all that a cell shows as text."""
    # One print may arrive in pieces, so the pieces are joined without a line's end.
    parts = ["".join(output.get("text", "") for output in cell.outputs)]
    for output in cell.outputs:
        parts.append(output.get("evalue", ""))
        data = output.get("data", {})
        parts += [
            data[kind] for kind in ("text/plain", "text/markdown", "text/html") if kind in data
        ]
    return "\n".join(parts)


def outcome_of(cell: NotebookNode) -> str:
    """Return which of the four outcomes the card below a check cell tells."""
    found = OUTCOME.search(text_of(cell))
    assert found, text_of(cell)
    return found[1]


def check_no_errors(notebook: NotebookNode) -> None:
    """No cell has failed, and nothing was written to stderr."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            problem = output.output_type == "error" or output.get("name") == "stderr"
            assert not problem, (cell.id, output)
