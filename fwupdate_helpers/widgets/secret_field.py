"""A field for a secret: it shows dots, and nothing of it is kept in the notebook.

A string that is pasted into a cell stays there, in the notebook's file and in the history of
IPython. What goes into this field stays in the environment of the kernel, and ends with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ipywidgets

from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.widgets.html_parts import html, message_html
from fwupdate_helpers.widgets.view import Note

Check = Callable[[Secret], str]
"""Checks a secret, and returns what may be shown of it; raises `FirmwareUpdateError`."""


class SecretField(ipywidgets.VBox):  # type: ignore[misc]
    """A masked field that sets a variable of this kernel's environment.

    Args:
        variable: The variable.
        label: What belongs into the field.
        check: Checks what was entered.
        next_step: What to do once it is set.
    """

    def __init__(self, variable: str, *, label: str, check: Check, next_step: str) -> None:
        self._variable, self._check, self._next_step = variable, check, next_step
        self._note = Note("")
        self.field: Any = ipywidgets.Password(
            description=label,
            placeholder="paste it here, then press Enter",
            continuous_update=False,
            layout={"width": "100%"},
            style={"description_width": "initial"},
        )
        self.message = html()
        self.field.observe(self._on_value, "value")
        super().__init__([self.field, self.message])

    @property
    def text(self) -> str:
        """What the field has told last."""
        return self._note.text

    def _on_value(self, change: Any) -> None:
        if not change["new"].strip():
            return
        # The front end writes what a field holds into the notebook's file.
        self.field.value = ""
        self._take(Secret(change["new"].strip()))

    def _take(self, secret: Secret) -> None:
        try:
            shown = self._check(secret)
        except FirmwareUpdateError as error:
            self._tell(Note(str(error), is_error=True))
            return
        os.environ[self._variable] = str.__str__(secret)
        self._tell(Note(f"Set for this kernel: {shown}. {self._next_step}"))

    def _tell(self, note: Note) -> None:
        self._note = note
        self.message.value = message_html(note)
