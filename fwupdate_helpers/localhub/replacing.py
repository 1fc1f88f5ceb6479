"""Puts a file in the place of another one, also while somebody looks at it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_PATIENCE: Final = 2.0
_MOMENT: Final = 0.02


def replace_file(source: Path, target: Path) -> None:
    """Give `source` the name `target`, in one step, in place of the file that has it.

    Windows refuses that while another program has one of the two open, as a virus scanner does for
    a moment with every file that was just written. So there it is tried again for two seconds.

    Raises:
        OSError: It cannot be done.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if os.name == "posix" or time.monotonic() > deadline:
                raise
        time.sleep(_MOMENT)
