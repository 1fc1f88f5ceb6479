"""Another system, as one module of the kit sees it: for code paths that this machine cannot run.

Only what a module asks ``sys``, ``os``, ``signal`` … is faked, not what the system then does. Tests
that use it carry the marker ``faked_platform``; on the real system, CI runs all the others.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

Given = Mapping[str, Any]

CREATE_NO_WINDOW: Final = 0x08000000
CREATE_NEW_PROCESS_GROUP: Final = 0x00000200
EXCLUSIVE_STAND_IN: Final = socket.SO_KEEPALIVE
"""An option that every system has, in the place of Windows' SO_EXCLUSIVEADDRUSE."""

_MISSING: Final = object()


def _open_file(path: os.PathLike[str], *options: int) -> int:
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return os.open(path, *options)


_WINDOWS: Final[Mapping[ModuleType, Given]] = {
    sys: {"platform": "win32"},
    os: {"name": "nt", "getuid": _MISSING, "open": _open_file},
    signal: {"pthread_sigmask": _MISSING, "SIGBREAK": signal.SIGUSR1},
    socket: {"SO_EXCLUSIVEADDRUSE": EXCLUSIVE_STAND_IN},
    subprocess: {
        "CREATE_NO_WINDOW": CREATE_NO_WINDOW,
        "CREATE_NEW_PROCESS_GROUP": CREATE_NEW_PROCESS_GROUP,
    },
}
_MACOS: Final[Mapping[ModuleType, Given]] = {sys: {"platform": "darwin"}}
_SYSTEMS: Final = {"windows": _WINDOWS, "macos": _MACOS}


class _Seen:
    """A module of Python's as another system has it."""

    def __init__(self, real: ModuleType, given: Given) -> None:
        self.__dict__.update(_real=real, _given=given)

    def __getattr__(self, name: str) -> Any:
        found = self._given.get(name, self)
        if found is _MISSING:
            raise AttributeError(name)
        return getattr(self._real, name) if found is self else found


def fake_platform(monkeypatch: pytest.MonkeyPatch, system: str, *modules: ModuleType) -> None:
    """Let modules of the kit see ``windows`` or ``macos`` until the test ends."""
    for module in modules:
        for real, given in _SYSTEMS[system].items():
            if vars(module).get(real.__name__) is real:
                monkeypatch.setattr(module, real.__name__, _Seen(real, given))
