"""Live widgets for notebooks, made of ipywidgets.

`view`, `progress`, `board_view` and the words in them know no widgets and do no I/O; `update_panel`
and `fleet_board` are the shells that read twins in the background and show what they make of it.
"""

from __future__ import annotations

from fwupdate_helpers.widgets.board_view import BoardView
from fwupdate_helpers.widgets.fleet_board import FleetBoard
from fwupdate_helpers.widgets.update_panel import UpdatePanel
from fwupdate_helpers.widgets.view import Note, PanelView

__all__ = ["BoardView", "FleetBoard", "Note", "PanelView", "UpdatePanel"]
