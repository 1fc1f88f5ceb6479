"""Live widgets for notebooks, made of ipywidgets.

`view`, `progress` and the words in them know no widgets and do no I/O; `update_panel` is the shell
that reads the twin in the background and shows what they make of it.
"""

from __future__ import annotations

from fwupdate_helpers.widgets.update_panel import UpdatePanel
from fwupdate_helpers.widgets.view import Note, PanelView

__all__ = ["Note", "PanelView", "UpdatePanel"]
