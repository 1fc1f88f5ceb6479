"""Run a notebook headless and write what a reader on the web sees: its HTML and its figures.

    python notebooks/images/render.py notebooks/02_firmware_update.ipynb build

A figure is the picture in the output of a cell tagged ``figure:NAME``; it becomes ``NAME.png``.
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter


def main() -> None:
    """Run the notebook that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--only-figures", action="store_true", help="write no HTML")
    options = parser.parse_args()

    notebook = nbformat.read(options.notebook, as_version=4)
    run_in = {"metadata": {"path": str(options.notebook.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=run_in).execute()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, png in figures(notebook).items():
        (options.folder / f"{name}.png").write_bytes(png)
    if not options.only_figures:
        html, _ = HTMLExporter().from_notebook_node(notebook)
        (options.folder / f"{options.notebook.stem}.html").write_text(html, encoding="utf-8")


def figures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """Return the PNG of each tagged figure of an executed notebook, by its name."""
    found = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            kind, _, name = tag.partition(":")
            if kind == "figure":
                pictures = [out.data["image/png"] for out in cell.outputs if "data" in out]
                found[name] = base64.b64decode(pictures[-1])
    return found


if __name__ == "__main__":
    main()
